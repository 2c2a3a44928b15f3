"""Verifier processes with a wall-clock limit of our own: a check returns in time, or its worker is killed.

The workers are started as fresh interpreters, not forked: a fork would copy torch's threads and GPU contexts, and
multiprocessing's spawn would import the caller's main module. They live in a session of their own, so that an
interrupt from the terminal reaches the parent alone. They end when their pipe closes, and a busy one at the latest two
seconds after its limit, so that a parent killed with -9 leaves none behind.
"""

from __future__ import annotations

import os
import selectors
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r2vpo.errors import ConfigError, RewardError
from r2vpo.llm.rewards.verifier.checks import CHECKS
from r2vpo.llm.rewards.verifier.process import WorkerProcess

DEFAULT_MEMORY_BYTES = 2 * 2**30
"""Address space of one worker."""
FAILED_STARTS = 3
"""So many workers in a row may die before they are ready; then the call fails."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check."""

    value: float | None
    """The score; None is no verdict."""
    reason: str = ""
    """Why there is none: ``time-out``, ``killed``, or the error."""

    @property
    def kind(self) -> str:
        """The reason without its details: ``time-out``, ``killed``, or the name of the error."""
        return self.reason.partition(":")[0]


class VerifierPool:
    """Runs named checks on items, each within a limit, in worker processes. A context manager.

    Args:
        workers: Number of processes. They start with the first call.
        timeout_seconds: Wall-clock limit of one check.
        memory_bytes: Address space of one worker; a check that needs more has no verdict.
        checks: Names of :data:`r2vpo.llm.rewards.verifier.checks.CHECKS` that the workers load.
        start_seconds: Wall-clock limit of a worker's start, which loads SymPy.

    Raises:
        ConfigError: A value outside its range, or an unknown check.
    """

    def __init__(
        self,
        workers: int = 2,
        timeout_seconds: float = 5.0,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        checks: Sequence[str] = ("math_verify",),
        start_seconds: float = 120.0,
    ) -> None:
        if not hasattr(signal, "setitimer"):
            raise ConfigError("checks", checks, "left out here: this system has no timers that end a process")
        if workers < 1:
            raise ConfigError("workers", workers, "at least 1")
        if not 0.0 < timeout_seconds < float("inf"):
            raise ConfigError("timeout_seconds", timeout_seconds, "a finite number above 0")
        if memory_bytes < 2**28:
            raise ConfigError("memory_bytes", memory_bytes, "at least 268435456 (256 MiB)")
        if not checks or not set(checks) <= set(CHECKS):
            raise ConfigError("checks", checks, f"some of {', '.join(CHECKS)}")
        self.workers = workers
        self.timeout_seconds = timeout_seconds
        self.start_seconds = start_seconds
        self._arguments = (",".join(checks), str(timeout_seconds), str(memory_bytes))
        self._checks = frozenset(checks)
        self._live: list[WorkerProcess] = []
        self._failed_starts = 0
        self._closed = False
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _kill_all, self._live, self._owner)

    def run(self, check: str, items: Sequence[Mapping[str, Any]]) -> list[Verdict]:
        """The verdict of one check on each item, in the order of the items.

        Args:
            check: One of the names this pool was made with.
            items: Keyword arguments of the check, of types that JSON knows.

        Raises:
            ConfigError: A check this pool does not have.
            RewardError: The pool is closed, or its workers cannot start.
        """
        if check not in self._checks:
            raise ConfigError("check", check, f"one of {', '.join(sorted(self._checks))}")
        with self._lock:
            if self._closed:
                raise RewardError("the verifier pool is closed")
            self._forget_workers_of_parent()
            try:
                return _Batch(self, check, items).run()
            except BaseException:
                # A worker left busy would hand its reply to the next call.
                _kill_all(self._live, self._owner)
                raise

    def worker_pids(self) -> list[int]:
        """Process ids of the workers that live now."""
        return [worker.pid for worker in self._live]

    def close(self) -> None:
        """Kill the workers; the pool cannot be used again. Closing twice is allowed."""
        with self._lock:
            self._closed = True
            self._finalizer()

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _forget_workers_of_parent(self) -> None:
        """In a process forked from the pool's owner, start workers of its own: two readers would mix replies up."""
        if self._owner != os.getpid():
            self._owner = os.getpid()
            self._finalizer.detach()
            self._live = []
            self._finalizer = weakref.finalize(self, _kill_all, self._live, self._owner)

    def _start_missing(self, wanted: int) -> None:
        for worker in [worker for worker in self._live if not worker.alive()]:
            self._bury(worker)
        while len(self._live) < min(wanted, self.workers):
            self._live.append(WorkerProcess(self._arguments, time.monotonic() + self.start_seconds))

    def _bury(self, worker: WorkerProcess) -> None:
        worker.kill()
        self._live.remove(worker)
        if worker.ready:
            return
        self._failed_starts += 1
        if worker.failure is not None or self._failed_starts >= FAILED_STARTS:
            self._failed_starts = 0
            raise RewardError(f"verifier workers do not start: {worker.failure or 'they die or hang while loading'}")


class _Batch:
    """One call of :meth:`VerifierPool.run`: deals items to idle workers and collects verdicts."""

    def __init__(self, pool: VerifierPool, check: str, items: Sequence[Mapping[str, Any]]) -> None:
        self.pool = pool
        self.check = check
        self.items = items
        self.waiting = deque(range(len(items)))
        self.verdicts: dict[int, Verdict] = {}

    def run(self) -> list[Verdict]:
        while len(self.verdicts) < len(self.items):
            self.pool._start_missing(len(self.items) - len(self.verdicts))
            self.deal()
            self.wait()
        return [self.verdicts[index] for index in range(len(self.items))]

    def deal(self) -> None:
        for worker in self.pool._live:
            if not worker.idle():
                continue
            self.pool._failed_starts = 0
            if self.waiting:
                index = self.waiting.popleft()
                request = {"check": self.check, "arguments": dict(self.items[index])}
                worker.send(index, request, time.monotonic() + self.pool.timeout_seconds)

    def wait(self) -> None:
        """Move bytes until something happens or the nearest limit passes, then settle what has been decided."""
        live = list(self.pool._live)
        busy = [worker for worker in live if not worker.idle()]
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                worker.register(selector)
            nearest = min((worker.deadline for worker in busy), default=0.0)
            for key, events in selector.select(max(0.0, nearest - time.monotonic())):
                key.data.advance(events)
        for worker in busy:
            self.settle(worker)

    def settle(self, worker: WorkerProcess) -> None:
        index = worker.index
        reply = worker.take_reply()
        if reply is not None and index is not None:
            self.verdicts[index] = Verdict(reply.get("value"), reply.get("error", ""))
        elif worker.broken or time.monotonic() >= worker.deadline:
            if index is not None:
                self.verdicts[index] = Verdict(None, "killed" if worker.broken else "time-out")
            self.pool._bury(worker)


def _kill_all(live: list[WorkerProcess], owner: int) -> None:
    if owner == os.getpid():
        for worker in live:
            worker.kill()
        live.clear()
