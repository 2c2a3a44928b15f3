"""Several algorithms on the same tasks, steps and seeds: a resumable list of runs, a table and a picture."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from r2vpo.control.commands import CompareCommand
from r2vpo.control.experiments.job import Job
from r2vpo.control.experiments.peers import PEERS, require_installed
from r2vpo.control.experiments.runs import RESULTS, experiment_folder, lines_of, run_jobs
from r2vpo.control.experiments.seeds import locked
from r2vpo.control.experiments.summary import plot_comparison, print_table, summarise_lines
from r2vpo.control.presets import VARIANTS, resolve_config
from r2vpo.envs.making import make_env, require_box_spaces
from r2vpo.errors import ConfigError, R2VPOError
from r2vpo.runs.checkpoint import write_text_atomically
from r2vpo.runs.provenance import machine_description, package_versions

COMPARISON = "comparison.json"
PICTURE = "comparison.png"


class Cells(Protocol):
    """What the arguments of a comparison and of a study have in common."""

    @property
    def env(self) -> tuple[str, ...]:
        """Tasks."""

    @property
    def algos(self) -> tuple[str, ...]:
        """Algorithms."""

    @property
    def seeds(self) -> int:
        """How many."""

    @property
    def total_steps(self) -> int:
        """Of each run."""

    @property
    def episodes(self) -> int:
        """Of an evaluation."""

    @property
    def workers(self) -> int:
        """Processes at a time."""


def compare(command: CompareCommand) -> dict[str, Any]:
    """Run what is missing, then summarise everything; returns what comparison.json holds.

    Raises:
        ConfigError: Unknown or missing algorithm, unknown environment, or a count below 1.
        RunDirectoryError: The folder cannot be written, or is in use.
        R2VPOError: Runs failed; the others are finished and saved first.
        KeyboardInterrupt: Ctrl-C; everything is saved.
    """
    jobs = jobs_of(command, range(command.seeds), {})
    check_cells(command, jobs)
    experiment_folder(command.out)
    with locked(command.out):
        failures = run_jobs(jobs, command.out, command.workers, command.quiet)
        return finish_comparison(jobs, command.out, failures, command.json)


def jobs_of(command: Cells, seeds: Iterable[int], settings: dict[str, Any]) -> list[Job]:
    """The cells of a command, seeds outermost; ``settings`` are for our own algorithms."""
    jobs = [
        Job(algo, env, seed, command.total_steps, command.episodes, settings if algo in VARIANTS else {})
        for seed in seeds
        for env in command.env
        for algo in command.algos
    ]
    return list({job.key: job for job in jobs}.values())


def check_cells(command: Cells, jobs: Sequence[Job]) -> None:
    """Everything that can be known to be wrong before any work.

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
    for job in jobs:
        if job.algo in VARIANTS:
            resolve_config({**job.train_settings, "env": job.env, "seed": job.seed})
    for env_id in dict.fromkeys(command.env):
        env = make_env(env_id)
        require_box_spaces(env)
        env.close()


def finish_comparison(
    jobs: Sequence[Job],
    out: Path,
    failures: Sequence[str],
    json_copy: Path | None = None,
    extra: Callable[[], Sequence[Path]] | None = None,
) -> dict[str, Any]:
    """Write and print the summary of the jobs that have lines, and say which runs failed.

    Args:
        jobs: What was to be run.
        out: Folder of the lines.
        failures: What the runs that failed said last.
        json_copy: Also write the summary there.
        extra: Makes further files once these are written; their paths are printed too.

    Returns:
        What comparison.json holds.

    Raises:
        R2VPOError: There are failures.
    """
    lines = lines_of(jobs, out)
    document = {"comparison": summarise_lines(lines), "versions": package_versions(), "machine": machine_description()}
    text = json.dumps(document, indent=1)
    write_text_atomically(out / COMPARISON, text)
    if json_copy is not None:
        write_text_atomically(json_copy, text)
    if lines:
        print_table(document["comparison"])
        plot_comparison(lines, out / PICTURE)
        for path in (out / RESULTS, out / COMPARISON, out / PICTURE, *(extra() if extra is not None else ())):
            print(path)
    if failures:
        for failure in failures[1:]:
            print(failure, file=sys.stderr)
        raise R2VPOError(f"{len(failures)} of {len(jobs)} runs failed; the first: {failures[0]}")
    return document
