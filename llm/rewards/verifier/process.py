"""The parent's end of one verifier process: its pipes, the item it has, and when its time is up."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

_THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class WorkerProcess:
    """A running ``r2vpo.llm.rewards.verifier.worker``. Neither sending nor receiving ever blocks.

    Args:
        arguments: Its command line.
        deadline: ``time.monotonic()`` by which it must be ready.
    """

    def __init__(self, arguments: Sequence[str], deadline: float) -> None:
        # One thread each: the arenas of a BLAS thread pool count against the limit of the address space.
        # -P and the path: the worker finds exactly the modules that this process finds, from whatever directory.
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        environment = {**os.environ, **dict.fromkeys(_THREAD_SETTINGS, "1"), "PYTHONPATH": path}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "r2vpo.llm.rewards.verifier.worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin, self._process.stdout
        os.set_blocking(self._requests.fileno(), False)
        os.set_blocking(self._replies.fileno(), False)
        self._outgoing = b""
        self._incoming = b""
        self.pid = self._process.pid
        self.deadline = deadline
        self.index: int | None = None
        """Which item it has; None while it has none."""
        self.ready = False
        """Whether it has loaded its libraries."""
        self.failure: str | None = None
        """What kept it from loading them."""
        self.broken = False
        """Whether the process is gone or going."""

    def alive(self) -> bool:
        """Whether the process runs and can be talked to."""
        return not self.broken and self._process.poll() is None

    def idle(self) -> bool:
        """Whether it can be given an item."""
        return self.ready and self.index is None and not self.broken

    def send(self, index: int, request: dict[str, Any], deadline: float) -> None:
        """Give it an item; the bytes leave with the next :meth:`advance`."""
        self.index = index
        self.deadline = deadline
        self._outgoing = json.dumps(request).encode() + b"\n"

    def register(self, selector: selectors.BaseSelector) -> None:
        """Watch its pipes for what they wait for."""
        selector.register(self._replies, selectors.EVENT_READ, self)
        if self._outgoing:
            selector.register(self._requests, selectors.EVENT_WRITE, self)

    def advance(self, events: int) -> None:
        """Move what can be moved without waiting."""
        try:
            if events & selectors.EVENT_WRITE:
                self._outgoing = self._outgoing[os.write(self._requests.fileno(), self._outgoing) :]
            else:
                received = os.read(self._replies.fileno(), 65536)
                self._incoming += received
                self.broken = not received
        except BlockingIOError:
            return
        except OSError:
            self.broken = True

    def take_reply(self) -> dict[str, Any] | None:
        """The reply to the item it had, which it then no longer has; None while there is none."""
        line, end, rest = self._incoming.partition(b"\n")
        if not end:
            return None
        self._incoming = rest
        message: dict[str, Any] = json.loads(line)
        if not self.ready:
            self.ready = bool(message.get("ready"))
            self.failure = message.get("failed")
            self.broken = self.broken or self.failure is not None
            return None
        self.index = None
        self.broken = self.broken or bool(message.get("leaving"))
        return message

    def kill(self) -> None:
        """End the process at once and collect it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._requests.close()
        self._replies.close()
        self._process.wait()
