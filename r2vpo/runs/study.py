"""Many runs as one list: each in a process of its own, a JSON line in a file as each ends, safe against any kill.

Everything that trains more than one run is a list of jobs for :func:`run_jobs`; comparisons of any kind end with
:func:`compare_jobs`.
"""

from __future__ import annotations

import heapq
import json
import sys
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from r2vpo.errors import R2VPOError
from r2vpo.runs.checkpoint import write_text_atomically
from r2vpo.runs.directory import newest_metrics
from r2vpo.runs.interrupt import StopRequest, finish_iteration_on_interrupt
from r2vpo.runs.progress import LiveTable
from r2vpo.runs.provenance import machine_description, package_versions
from r2vpo.runs.workers import Job, Line, Workers

RESULTS, COMPARISON, PICTURE = "runs.jsonl", "comparison.json", "comparison.png"
RUNS = "runs"
"""Folder of the run directories."""
GRACE_SECONDS = 30.0
"""After Ctrl-C the processes have this long to finish their iteration and save."""

_LOOK_SECONDS = 0.2
"""How soon Ctrl-C is noticed."""


def read_results(path: Path) -> list[Line]:
    """Lines of a results file; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1] if line]


def finished_lines(jobs: Sequence[Job], folder: Path) -> dict[Hashable, Line]:
    """By key, the lines of those jobs that have ended, in the order of the jobs."""
    found = {jobs[0].of_line(line).key: line for line in read_results(folder / RESULTS)} if jobs else {}
    return {job.key: found[job.key] for job in jobs if job.key in found}


def units_done(job: Job, runs: Path) -> int:
    """Units that an unfinished run has recorded; 0 for one that will start again from nothing."""
    return int(newest_metrics(runs / job.folder).get("step", 0))


def run_jobs(
    jobs: Sequence[Job],
    folder: Path,
    workers: int,
    *,
    quiet: bool = False,
    runs: Path | None = None,
    what: str = "run",
) -> list[str]:
    """Run every job that has no line yet, with a live table. Call it with the folder locked.

    Args:
        jobs: Of one kind, in the order in which they start.
        folder: Of the results file; exists.
        workers: Processes at a time.
        quiet: No live table.
        runs: Where the run directories are made; ``runs`` in the folder when not given.
        what: What a run is called in the table.

    Returns:
        What the runs that failed said last.

    Raises:
        KeyboardInterrupt: Ctrl-C; the processes have saved and ended by then.
    """
    results, runs = folder / RESULTS, runs or folder / RUNS
    if results.exists():  # without what a kill has cut short
        write_text_atomically(results, "".join(json.dumps(line) + "\n" for line in read_results(results)))
    finished = finished_lines(jobs, folder)
    missing = [(job, units_done(job, runs)) for job in jobs if job.key not in finished]
    if not missing:
        return []
    table = LiveTable(what, {job.key: (job.title, job.size) for job in jobs}, jobs[0].unit, quiet)
    for job in jobs:
        if job.key in finished:
            table.update(job.key, "done", job.size, finished[job.key].get("figures", {}))
    for job, done in missing:
        table.update(job.key, "waiting", done, {})
    processes, stop = Workers(results, runs, table.update), StopRequest()
    with finish_iteration_on_interrupt(stop), table, ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(processes.work, job, done) for job, done in missing]
        try:
            _wait(futures, stop)
            if stop:
                processes.ask_to_stop()
                wait(futures, timeout=GRACE_SECONDS)
                raise KeyboardInterrupt
        except BaseException:
            processes.terminate()
            raise
    return processes.failures


def _wait(futures: Sequence[Future[None]], stop: StopRequest) -> None:
    """Until all have ended or Ctrl-C came; raises what one of them raised."""
    pending = set(futures)
    while pending and not stop:
        ended, pending = wait(pending, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
        for future in ended:
            future.result()


def raise_failures(failures: Sequence[str], total: int, what: str = "runs") -> None:
    """Say which runs failed, if any.

    Raises:
        R2VPOError: There are failures.
    """
    for failure in failures[1:]:
        print(failure, file=sys.stderr)
    if failures:
        raise R2VPOError(f"{len(failures)} of {total} {what} failed; the first: {failures[0]}")


def compare_jobs(
    jobs: Sequence[Job],
    folder: Path,
    workers: int,
    *,
    summarise: Callable[[list[Line]], list[dict[str, Any]]],
    print_table: Callable[[list[dict[str, Any]]], None],
    plot: Callable[[list[Line], Path], Path],
    quiet: bool = False,
    json_copy: Path | None = None,
    extra: Callable[[list[Line]], Iterable[Path]] = lambda lines: (),
) -> dict[str, Any]:
    """Run what is missing of the jobs, then write and print the summary of all that have lines.

    Args:
        jobs: What is compared.
        folder: Of everything that is written; locked.
        workers: Processes at a time.
        summarise: Rows from the lines, in the order of the jobs whichever ended first.
        print_table: Prints the rows.
        plot: Draws the lines into a PNG.
        quiet: No live table.
        json_copy: Also write the summary there.
        extra: Makes further files once the others are written; their paths are printed too.

    Returns:
        What comparison.json holds.

    Raises:
        R2VPOError: Runs failed; the others are finished and saved first.
        KeyboardInterrupt: Ctrl-C; everything is saved.
    """
    failures = run_jobs(jobs, folder, workers, quiet=quiet)
    lines = list(finished_lines(jobs, folder).values())
    rows = summarise(lines)
    document = {"comparison": rows, "versions": package_versions(), "machine": machine_description()}
    text = json.dumps(document, indent=1)
    for path in (folder / COMPARISON, json_copy):
        if path is not None:
            write_text_atomically(path, text)
    if lines:
        print_table(rows)
        for path in (folder / RESULTS, folder / COMPARISON, plot(lines, folder / PICTURE), *extra(lines)):
            print(path)
    raise_failures(failures, len(jobs))
    return document


def makespan(seconds: Iterable[float], workers: int) -> float:
    """When the last of several runs ends that start in this order, each as soon as one of ``workers`` is free."""
    free = [0.0] * workers
    for duration in seconds:
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)
