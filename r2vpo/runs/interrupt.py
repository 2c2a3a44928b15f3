"""Ctrl-C, or SIGTERM from a cluster, in a training loop: the iteration under way is finished and saved first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class StopRequest:
    """Why training should end after the iteration under way; false while it should not."""

    interrupted = False
    by_callback = False

    def __bool__(self) -> bool:
        return self.interrupted or self.by_callback


@contextmanager
def finish_iteration_on_interrupt(stop: StopRequest) -> Iterator[None]:
    """First SIGINT or SIGTERM: note it in ``stop``, so that the loop can finish its iteration and save.

    The second one of either kind stops at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # None is a handler that a program around Python has set, which could not be put back.
    previous = {number: handler for number, handler in handlers.items() if handler is not None}

    def on_interrupt(signum: int, frame: Any) -> None:
        stop.interrupted = True
        restore()

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    for number in previous:
        signal.signal(number, on_interrupt)
    try:
        yield
    finally:
        restore()
