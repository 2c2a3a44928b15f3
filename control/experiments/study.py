"""Several algorithms on the same tasks and seeds: ``compare``, and ``study`` with its list on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from r2vpo.control.experiments.commands import CompareCommand, StudyCommand, StudyResumeCommand, parse_settings
from r2vpo.control.experiments.figures import plot_comparison
from r2vpo.control.experiments.job import Job
from r2vpo.control.experiments.peers import PEERS, require_installed
from r2vpo.control.experiments.summary import print_table, summarise_lines
from r2vpo.control.experiments.videos import best_and_worst, film
from r2vpo.control.presets import VARIANTS, resolve_config
from r2vpo.envs.making import make_env, require_box_spaces
from r2vpo.errors import ConfigError, RunDirectoryError
from r2vpo.runs.checkpoint import write_text_atomically
from r2vpo.runs.directory import take_lock
from r2vpo.runs.progress import clock_text
from r2vpo.runs.provenance import provenance
from r2vpo.runs.study import RUNS, compare_jobs, finished_lines, units_done
from r2vpo.runs.workers import Line

_compare = partial(compare_jobs, summarise=summarise_lines, print_table=print_table, plot=plot_comparison)

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
            **provenance(),
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


def compare(command: CompareCommand) -> dict[str, Any]:
    """Run what is missing, then summarise everything; returns what comparison.json holds.

    Raises:
        ConfigError: Unknown or missing algorithm, unknown environment, or a count below 1.
        RunDirectoryError: The folder cannot be written, or is in use.
        R2VPOError: Runs failed; the others are finished and saved first.
        KeyboardInterrupt: Ctrl-C; everything is saved.
    """
    jobs = jobs_of(command, range(command.seeds), {})
    with take_lock(command.out, "out"):
        return _compare(jobs, command.out, command.workers, quiet=command.quiet, json_copy=command.json)


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
    jobs = study_jobs(command) if isinstance(command, StudyCommand) else []
    out = command.out if isinstance(command, StudyCommand) else command.resume
    listed = _listed(command, jobs)
    if command.list:
        print_states(listed.jobs, out, listed.workers)
        return None
    with take_lock(out, "out"):
        # Again under the lock: another command may have added cells in between.
        listed = _listed(command, jobs)
        listed.save(out)
        print(f"{len(listed.jobs)} runs, {listed.workers} at a time -> {out}", flush=True)

        def films(lines: list[Line]) -> list[Path]:
            return film(best_and_worst(lines), out / RUNS) if listed.videos == "best-worst" else []

        return _compare(listed.jobs, out, listed.workers, quiet=command.quiet, extra=films)


def study_jobs(command: StudyCommand) -> list[Job]:
    """The cells of a command, checked; seeds outermost.

    Raises:
        ConfigError: See :func:`study`.
    """
    if command.first_seed < 0:
        raise ConfigError("first_seed", command.first_seed, "a whole number of at least 0")
    settings = parse_settings(command.set)
    jobs = jobs_of(command, range(command.first_seed, command.first_seed + command.seeds), settings)
    if settings and not any(algo in VARIANTS for algo in command.algos):
        raise ConfigError("set", " ".join(command.set), "left out where no algorithm is one of ours")
    return jobs


def jobs_of(command: CompareCommand | StudyCommand, seeds: Iterable[int], settings: dict[str, Any]) -> list[Job]:
    """The cells of a command, seeds outermost; all that can be known to be wrong before any work is said here.

    Args:
        command: Tasks, algorithms, steps and counts.
        seeds: Of each task and algorithm.
        settings: For our own algorithms.

    Raises:
        ConfigError: Unknown or missing algorithm, unknown environment, a count below 1, or a setting outside its range.
    """
    for field in ("seeds", "total_steps", "workers", "episodes"):
        if getattr(command, field) < 1:
            raise ConfigError(field, getattr(command, field), "a whole number of at least 1")
    for field in ("env", "algos"):
        if not getattr(command, field):
            raise ConfigError(field, getattr(command, field), "at least one")
    for algo in command.algos:
        if algo in PEERS:
            require_installed(algo)
        elif algo not in VARIANTS:
            raise ConfigError("algos", algo, f"one of {', '.join([*VARIANTS, *PEERS])}")
    jobs = [
        Job(algo, env, seed, command.total_steps, command.episodes, settings if algo in VARIANTS else {})
        for seed in seeds
        for env in command.env
        for algo in command.algos
    ]
    for job in jobs:
        if job.algo in VARIANTS:
            resolve_config(job.train_settings)
    for env_id in dict.fromkeys(command.env):
        env = make_env(env_id)
        require_box_spaces(env)
        env.close()
    return list({job.key: job for job in jobs}.values())


def print_states(jobs: Sequence[Job], out: Path, workers: int) -> None:
    """Print a line for each cell (done, half done with its steps, waiting), and the time left.

    Args:
        jobs: In the order in which they start.
        out: Folder of the study.
        workers: Processes at a time, for the time left.
    """
    finished = finished_lines(jobs, out)
    counts, left = {"done": 0, "half done": 0, "waiting": 0}, 0
    for job in jobs:
        steps = job.size if job.key in finished else units_done(job, out / RUNS)
        state = "done" if job.key in finished else "half done" if steps else "waiting"
        counts[state] += 1
        left += max(0, job.size - steps)
        print(f"{state:<10}  {f'{steps:,}/{job.size:,}':>21}  {job.title}")
    said = ", ".join(f"{count} {state}" for state, count in counts.items())
    if counts["done"] == len(jobs):
        print(f"{said}; nothing left to do")
    elif not finished:
        print(f"{said}; time left unknown, nothing has finished yet")
    else:
        seconds = sum(line["wall_seconds"] for line in finished.values())
        pace = seconds / sum(line["total_steps"] for line in finished.values())
        print(f"{said}; time left {clock_text(pace * left / workers)} with {workers} at a time")


def _listed(command: StudyCommand | StudyResumeCommand, jobs: list[Job]) -> JobList:
    """The list on disk, with what the command changes or adds."""
    if isinstance(command, StudyCommand):
        known = JobList.open(command.out) if (command.out / STUDY).exists() else JobList((), 1, "none")
        extended = known.with_jobs(jobs).with_command(command.text)
        return replace(extended, workers=command.workers, videos=command.videos)
    if command.workers is not None and command.workers < 1:
        raise ConfigError("workers", command.workers, "a whole number of at least 1")
    listed = JobList.open(command.resume)
    return replace(listed, workers=command.workers or listed.workers, videos=command.videos or listed.videos)
