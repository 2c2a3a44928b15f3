"""Tasks x algorithms x seeds as a list on disk that any number of kills leaves whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from r2vpo.control.compare import check_cells, finish_comparison, jobs_of
from r2vpo.control.jobs import Job
from r2vpo.control.presets import VARIANTS
from r2vpo.control.seed_files import locked
from r2vpo.control.study_commands import StudyCommand, StudyResumeCommand
from r2vpo.control.study_list import STUDY, JobList
from r2vpo.control.study_runs import RUNS, experiment_folder, lines_of, run_jobs
from r2vpo.control.study_settings import parse_settings
from r2vpo.control.study_states import print_states
from r2vpo.control.study_videos import best_and_worst, film
from r2vpo.errors import ConfigError


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
