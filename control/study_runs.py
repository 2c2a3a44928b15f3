"""The runs of a comparison or a study, on disk and in processes of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r2vpo.control.jobs import Job
from r2vpo.control.seed_worker import newest_metrics
from r2vpo.control.study_eta import StudyForecast
from r2vpo.control.worker import RETURN
from r2vpo.errors import RunDirectoryError
from r2vpo.live_table import LiveTable
from r2vpo.study import Cell, read_results, run_cells

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
        "r2vpo.control.worker",
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
