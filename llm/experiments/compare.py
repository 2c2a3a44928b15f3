"""``r2vpo llm compare``: several methods on the same problems and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from r2vpo.errors import ConfigError
from r2vpo.llm.config import METHODS, resolve_config
from r2vpo.llm.data.rows import load_rows
from r2vpo.llm.experiments.worker import Job
from r2vpo.llm.rewards.registry import make_reward


@dataclass(frozen=True)
class CompareCommand:
    """Train several methods with the same model, problems, rollouts and seeds, and evaluate all of them alike.

    Interrupted, the same command goes on where it stopped.
    """

    methods: tuple[str, ...] = ("r2vpo-off", "r2vpo-on", "grpo", "grpo-replay")
    """Names that --method of r2vpo llm train takes."""
    model: str = "arithmetic"
    """As for r2vpo llm train."""
    dataset: str = "arithmetic"
    """As for r2vpo llm train."""
    prompt_column: str | None = None
    """Column of the dataset that holds the prompt; None takes prompt."""
    answer_column: str | None = None
    """Column of the dataset that holds the ground truth; None takes answer."""
    reward: tuple[str, ...] | None = None
    """As for r2vpo llm train; None takes the dataset's."""
    seeds: int = 5
    """Seeds 0 to N-1."""
    total_rollouts: int = 51_200
    """Completions each run trains on."""
    learning_rate: float | None = None
    """Of every method; None takes the preset's."""
    out: Path = Path("runs/llm-compare")
    """Folder for runs, results, table and picture."""
    workers: int = 2
    """Runs at a time, one torch thread each."""
    json: Path | None = None
    """Also write the comparison to this file."""
    keep_curves: bool = False
    """Keep of each run what r2vpo plot reads, in curves/ under the folder."""
    quiet: bool = False
    """No live table."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    command = tyro.cli(CompareCommand, args=list(arguments), prog="r2vpo llm compare")
    for name in ("seeds", "total_rollouts", "workers"):
        if getattr(command, name) < 1:
            raise ConfigError(name, getattr(command, name), "a whole number of at least 1")
    for method in command.methods:
        if method not in METHODS:
            raise ConfigError("methods", method, f"names among {', '.join(METHODS)}")
    given = {name: getattr(command, name) for name in ("learning_rate", "prompt_column", "answer_column", "reward")}
    settings = {name: list(value) if name == "reward" else value for name, value in given.items() if value is not None}
    jobs = [
        Job(method, seed, command.model, command.dataset, command.total_rollouts, settings, keep=command.keep_curves)
        for seed in range(command.seeds)
        for method in command.methods
    ]
    compare_jobs(jobs, command.out, command.workers, command.quiet, command.json)
    return 0


def compare_jobs(
    jobs: Sequence[Job], out: Path, workers: int = 2, quiet: bool = False, json_copy: Path | None = None
) -> dict[str, Any]:
    """Run what is missing of the jobs, then summarise all of them; returns what comparison.json holds.

    Raises:
        ConfigError: A job's settings are not allowed, or its dataset cannot be read, or a reward not be made.
        RunDirectoryError: The folder cannot be written, or is in use.
        R2VPOError: Runs failed; the others are finished and saved first.
        KeyboardInterrupt: Ctrl-C; everything is saved.
    """
    from r2vpo.llm.experiments.summary import plot_methods, print_table, summarise_methods
    from r2vpo.runs import study
    from r2vpo.runs.directory import take_lock

    check_jobs(jobs)
    make_models(jobs)
    with take_lock(out, "out"):
        return study.compare_jobs(
            jobs,
            out,
            workers,
            summarise=summarise_methods,
            print_table=print_table,
            plot=plot_methods,
            quiet=quiet,
            json_copy=json_copy,
        )


def check_jobs(jobs: Sequence[Job]) -> None:
    """Raise ConfigError for settings, a dataset or a reward that no run could work with."""
    datasets, rewards = set[tuple[str, str, str]](), set[str]()
    for job in jobs:
        config = resolve_config({"model": job.model, "dataset": job.dataset, "method": job.method, **job.settings})
        datasets.add((config.dataset, config.prompt_column, config.answer_column))
        rewards.update(config.reward)
    for dataset, *columns in sorted(datasets):
        load_rows(dataset, "train", 1, *columns)
    for reward in sorted(rewards):
        getattr(make_reward(reward), "close", lambda: None)()


def make_models(jobs: Sequence[Job]) -> None:
    """So that the workers do not all make it at once."""
    from r2vpo.llm.models.tiny_names import is_tiny, make_tiny

    for model in dict.fromkeys(job.model for job in jobs):
        if is_tiny(model):
            make_tiny(model)
