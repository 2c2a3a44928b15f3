"""A few threads that share the indices of one loop; the thread that asks works too."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable
from queue import SimpleQueue

Failure = tuple[int, Exception]
"""The index whose call raised, and what it raised."""


class WorkerPool:
    """Runs a function over 0 ... count - 1 on ``threads`` threads.

    Worth it only for functions that release the interpreter's lock, as MuJoCo's do. ``concurrent.futures`` does the
    same and takes 20 us a call to do so, which is what one environment needs for its physics.

    Args:
        threads: Threads that work, the caller's included; 1 starts none.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._jobs: SimpleQueue = SimpleQueue()
        for _ in range(threads - 1):
            threading.Thread(target=_serve, args=(self._jobs,), name="r2vpo-native", daemon=True).start()
        # Also runs when the pool is garbage collected: the threads hold the queue, never the pool.
        self.close = weakref.finalize(self, _stop, self._jobs, threads - 1)

    def run(self, function: Callable[[int], None], count: int) -> Failure | None:
        """Call ``function(i)`` once for every i and wait for all of them.

        Returns:
            A failure, or None. A thread that fails takes no further indices.
        """
        if self.threads == 1:
            return _work(function, range(count))
        # One iterator for all threads: whoever is free takes the next index. Under the interpreter's lock, taking
        # it is atomic.
        indices = iter(range(count))
        helpers = min(self.threads, count) - 1
        if helpers == 0 or not self.close.alive:
            return _work(function, indices)
        # A new queue per call: what an interrupted call (Ctrl-C) leaves behind cannot be taken for this one's.
        done: SimpleQueue = SimpleQueue()
        for _ in range(helpers):
            self._jobs.put((function, indices, done))
        failures = [_work(function, indices)] + [done.get() for _ in range(helpers)]
        return next((failure for failure in failures if failure), None)


def default_threads(num_envs: int) -> int:
    """Threads for N environments: one for every four of them, and no more than there are usable cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, num_envs // 4))


def _work(function: Callable[[int], None], indices: Iterable[int]) -> Failure | None:
    for i in indices:
        try:
            function(i)
        except Exception as error:
            return i, error
    return None


def _serve(jobs: SimpleQueue) -> None:
    while True:
        job = jobs.get()
        if job is None:
            return
        function, indices, done = job
        done.put(_work(function, indices))
        # Waiting for the next job with these in hand would keep the environments alive for ever.
        del job, function, indices, done


def _stop(jobs: SimpleQueue, count: int) -> None:
    for _ in range(count):
        jobs.put(None)
