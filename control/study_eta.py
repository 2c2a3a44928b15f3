"""Time left of a list of runs, from how long finished ones of the same kind took."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from r2vpo.control.jobs import Job
from r2vpo.study import read_results


class Pace:
    """Seconds of training a step, by task and algorithm.

    Args:
        lines: Study lines of finished runs.
    """

    def __init__(self, lines: Iterable[dict[str, Any]]) -> None:
        self._seen: dict[tuple[str, ...], list[float]] = {}
        for line in lines:
            job = Job.of_line(line)
            for kind in _kinds(job):
                self._seen.setdefault(kind, []).append(line["wall_seconds"] / job.total_steps)

    def seconds(self, job: Job) -> float | None:
        """Expected seconds of a run, or None while nothing has finished.

        The mean of the runs most like it: same task, algorithm and settings; same task and algorithm; same
        algorithm; any.
        """
        for kind in _kinds(job):
            if kind in self._seen:
                seen = self._seen[kind]
                return job.total_steps * sum(seen) / len(seen)
        return None


class StudyForecast:
    """Time left of a study that is under way; a :data:`r2vpo.live_table.Forecast`.

    Args:
        jobs: All cells.
        results: File of study lines; read again whenever it has grown.
        workers: Processes at a time.
    """

    def __init__(self, jobs: Sequence[Job], results: Path, workers: int) -> None:
        self._jobs: dict[Hashable, Job] = {job.key: job for job in jobs}
        self._results, self._workers = results, workers
        self._size, self._pace = -1, Pace([])

    def __call__(self, open_rows: Mapping[Hashable, tuple[int, float | None]]) -> float | None:
        """Seconds until the last run has ended; None while nothing tells how long runs take."""
        self._refresh()
        # Those under way first: they have their processes already.
        rows = sorted(open_rows.items(), key=lambda row: row[1][1] is None)
        cells = [(self._jobs[key], min(done, self._jobs[key].total_steps), left) for key, (done, left) in rows]
        own = [left / (job.total_steps - done) for job, done, left in cells if left]
        pace_now = sum(own) / len(own) if own else None
        seconds = [self._left(job, done, left, pace_now) for job, done, left in cells]
        known = [left for left in seconds if left is not None]
        return makespan(known, self._workers) if known and len(known) == len(seconds) else None

    def _left(self, job: Job, done: int, left: float | None, pace_now: float | None) -> float | None:
        """A cell's own seconds left; else by finished runs, or by those under way before any has finished."""
        if left is not None or done >= job.total_steps:
            return left or 0.0
        expected = self._pace.seconds(job)
        pace = pace_now if expected is None else expected / job.total_steps
        return None if pace is None else pace * (job.total_steps - done)

    def _refresh(self) -> None:
        size = self._results.stat().st_size if self._results.exists() else 0
        if size != self._size:
            self._size, self._pace = size, Pace(read_results(self._results))


def makespan(seconds: Iterable[float], workers: int) -> float:
    """When the last of several runs ends that start in this order, each as soon as one of ``workers`` is free."""
    free = [0.0] * workers
    for duration in seconds:
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)


def _kinds(job: Job) -> list[tuple[str, ...]]:
    """From the closest to the widest."""
    return [(job.env, job.algo, job.name), (job.env, job.algo), (job.algo,), ()]
