"""Tasks x algorithms x seeds as a list on disk that any number of kills leaves whole."""

from __future__ import annotations

import json
import time
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from r2vpo.control.experiments.commands import StudyCommand, StudyResumeCommand, parse_settings
from r2vpo.control.experiments.compare import check_cells, finish_comparison, jobs_of
from r2vpo.control.experiments.job import Job
from r2vpo.control.experiments.runs import (
    RESULTS,
    RUNS,
    StudyForecast,
    experiment_folder,
    lines_of,
    run_jobs,
    steps_done,
)
from r2vpo.control.experiments.seeds import locked
from r2vpo.control.experiments.videos import best_and_worst, film
from r2vpo.control.presets import VARIANTS
from r2vpo.errors import ConfigError, RunDirectoryError
from r2vpo.runs.checkpoint import write_text_atomically
from r2vpo.runs.progress import clock_text
from r2vpo.runs.provenance import machine_description, package_versions, source_commit


def print_states(jobs: Sequence[Job], out: Path, workers: int) -> None:
    """Print a line for each cell (done, half done with its steps, waiting), and the time left.

    Args:
        jobs: In the order in which they start.
        out: Folder of the study.
        workers: Processes at a time, for the time left.
    """
    finished = {Job.of_line(line).key for line in lines_of(jobs, out)}
    open_rows: dict[Hashable, tuple[int, float | None]] = {}
    counts = {"done": 0, "half done": 0, "waiting": 0}
    for job in jobs:
        steps = job.total_steps if job.key in finished else steps_done(job, out)
        state = "done" if job.key in finished else "half done" if steps else "waiting"
        if state != "done":
            open_rows[job.key] = steps, None
        counts[state] += 1
        print(f"{state:<10}  {f'{steps:,}/{job.total_steps:,}':>21}  {job.label}")
    left = StudyForecast(jobs, out / RESULTS, workers)(open_rows)
    eta = "unknown, nothing has finished yet" if left is None else f"{clock_text(left)} with {workers} at a time"
    said = ", ".join(f"{count} {state}" for state, count in counts.items())
    print(f"{said}; {'nothing left to do' if not open_rows else f'time left {eta}'}")


STUDY = "study.json"
"""Cells, how they are run, and where the list came from."""


@dataclass(frozen=True)
class JobList:
    """Everything that ``--resume`` needs."""

    jobs: tuple[Job, ...]
    """In the order in which they start: seeds outermost, so that all cells have equally many when it is stopped."""
    workers: int
    """Processes at a time."""
    videos: str
    """Which policies are filmed at the end."""
    commands: tuple[dict[str, Any], ...] = ()
    """The commands that asked for cells, each with versions, machine, commit and time."""

    @classmethod
    def open(cls, folder: Path) -> JobList:
        """The list that a folder holds.

        Raises:
            RunDirectoryError: There is none, or it is damaged.
        """
        try:
            document = json.loads((folder / STUDY).read_text())
            jobs = tuple(Job(**job) for job in document["jobs"])
            return cls(jobs, int(document["workers"]), document["videos"], tuple(document["commands"]))
        except FileNotFoundError as error:
            raise RunDirectoryError(f"out={str(folder)!r} holds no study: there is no {STUDY} in it") from error
        except (ValueError, KeyError, TypeError) as error:
            raise RunDirectoryError(f"{folder / STUDY} is damaged: {error}") from error

    def with_jobs(self, jobs: Sequence[Job]) -> JobList:
        """The list with the cells that it lacks; those it has stay as they are."""
        cells = {job.key: job for job in jobs} | {job.key: job for job in self.jobs}
        known = {job.key for job in self.jobs}
        ordered = [*self.jobs, *(job for key, job in cells.items() if key not in known)]
        return replace(self, jobs=tuple(sorted(ordered, key=lambda job: job.seed)))

    def with_command(self, command: str) -> JobList:
        """The list with a command, its versions, machine, commit and time; one that it knows is not added again."""
        if any(known["command"] == command for known in self.commands):
            return self
        came_from = {
            "command": command,
            "versions": package_versions(),
            "machine": machine_description(),
            "commit": source_commit(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        return replace(self, commands=(*self.commands, came_from))

    def save(self, folder: Path) -> None:
        """Write the list.

        Raises:
            RunDirectoryError: The folder cannot be written.
        """
        try:
            write_text_atomically(folder / STUDY, json.dumps(asdict(self), indent=1))
        except OSError as error:
            raise RunDirectoryError(f"{folder / STUDY} cannot be written: {error.strerror}") from error


def study(command: StudyCommand | StudyResumeCommand) -> dict[str, Any] | None:
    """Write the list, run what is missing, then summarise everything, or only print the states.

    Args:
        command: Cells to add, or the folder to go on with.

    Returns:
        What comparison.json holds; None with ``list``.

    Raises:
        ConfigError: Unknown or missing algorithm, unknown environment or setting, or a value outside its range.
        RunDirectoryError: The folder cannot be written, is in use, or holds no study to go on with.
        R2VPOError: Runs failed; the others are finished and saved first.
        KeyboardInterrupt: Ctrl-C; everything is saved.
    """
    if isinstance(command, StudyResumeCommand):
        out, listed = command.resume, _reopened(command)
    else:
        jobs = study_jobs(command)
        out, listed = command.out, _extended(command, jobs)
    if command.list:
        print_states(listed.jobs, out, listed.workers)
        return None
    experiment_folder(out)
    with locked(out):
        # Again under the lock: another command may have added cells in between.
        listed = _reopened(command) if isinstance(command, StudyResumeCommand) else _extended(command, jobs)
        if isinstance(command, StudyCommand):
            listed = listed.with_command(command.text)
        listed.save(out)
        return _run(listed, out, command.quiet)


def study_jobs(command: StudyCommand) -> list[Job]:
    """The cells of a command, checked; seeds outermost.

    Raises:
        ConfigError: See :func:`study`.
    """
    if command.first_seed < 0:
        raise ConfigError("first_seed", command.first_seed, "a whole number of at least 0")
    settings = parse_settings(command.set)
    seeds = range(command.first_seed, command.first_seed + command.seeds)
    jobs = jobs_of(command, seeds, settings)
    check_cells(command, jobs)
    if settings and not any(algo in VARIANTS for algo in command.algos):
        raise ConfigError("set", " ".join(command.set), "left out where no algorithm is one of ours")
    return jobs


def _reopened(command: StudyResumeCommand) -> JobList:
    if command.workers is not None and command.workers < 1:
        raise ConfigError("workers", command.workers, "a whole number of at least 1")
    listed = JobList.open(command.resume)
    return replace(listed, workers=command.workers or listed.workers, videos=command.videos or listed.videos)


def _extended(command: StudyCommand, jobs: list[Job]) -> JobList:
    known = JobList.open(command.out) if (command.out / STUDY).exists() else JobList((), 1, "none")
    return replace(known.with_jobs(jobs), workers=command.workers, videos=command.videos)


def _run(listed: JobList, out: Path, quiet: bool) -> dict[str, Any]:
    print(f"{len(listed.jobs)} runs, {listed.workers} at a time -> {out}", flush=True)
    failures = run_jobs(listed.jobs, out, listed.workers, quiet)
    videos = best_and_worst(lines_of(listed.jobs, out)) if listed.videos == "best-worst" else []

    def films() -> list[Path]:
        return film(videos, out / RUNS)

    return finish_comparison(listed.jobs, out, failures, extra=films)
