"""The runs of a comparison or a study, on disk and in processes of their own."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from r2vpo.control.experiments.job import Job
from r2vpo.control.experiments.seed_worker import newest_metrics
from r2vpo.control.experiments.worker import RETURN
from r2vpo.errors import RunDirectoryError
from r2vpo.runs.live_table import LiveTable
from r2vpo.runs.study import Cell, read_results, run_cells


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
    """Time left of a study that is under way; a :data:`r2vpo.runs.live_table.Forecast`.

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


RESULTS = "runs.jsonl"
RUNS = "runs"
"""Folder of our own run directories."""

GRACE_SECONDS = 30.0
"""After Ctrl-C the processes have this long to finish their iteration and save."""


def experiment_folder(out: Path) -> None:
    """Make the folder of an experiment.

    Raises:
        RunDirectoryError: It cannot be made or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "run.lock").touch()
    except OSError as error:
        raise RunDirectoryError(f"out={str(out)!r} cannot be written: {error.strerror}") from error


def run_jobs(jobs: Sequence[Job], out: Path, workers: int, quiet: bool) -> list[str]:
    """Run every job that has no line yet, with a live table of those under way.

    Args:
        jobs: In the order in which they start.
        out: Folder of the lines and the run directories.
        workers: Processes at a time.
        quiet: No live table.

    Returns:
        What the runs that failed said last.

    Raises:
        KeyboardInterrupt: Ctrl-C; everything is saved.
    """
    results = out / RESULTS
    cells = [Cell(job, job.key, job.total_steps, job.label) for job in jobs]
    table = LiveTable(
        "run",
        {job.key: (job.label, job.total_steps) for job in jobs},
        (RETURN,),
        quiet=quiet,
        forecast=StudyForecast(jobs, results, workers),
        only_active=True,
    )
    for job in jobs:
        table.update(job.key, "waiting", steps_done(job, out), {})
    return run_cells(
        cells,
        results,
        lambda line: Job.of_line(line).key,
        "r2vpo.control.experiments.worker",
        out / RUNS,
        workers,
        "steps",
        display=table,
        grace=GRACE_SECONDS,
    )


def lines_of(jobs: Sequence[Job], out: Path) -> list[dict[str, Any]]:
    """The study lines of these jobs."""
    wanted = {job.key for job in jobs}
    return [line for line in read_results(out / RESULTS) if Job.of_line(line).key in wanted]


def steps_done(job: Job, out: Path) -> int:
    """Steps that an unfinished run of ours has recorded; 0 for others, which start again from nothing."""
    return int(newest_metrics(out / RUNS / job.folder).get("step", 0))
