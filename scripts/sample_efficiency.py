"""Sample efficiency of the tiny models: how many rollouts each method needs for GRPO's best accuracy on a task.

The claim to test is the first paper's, that off-policy R²VPO needs about half (arXiv 2601.03320, Figure 1). Two stages,
each resumable:

    python scripts/sample_efficiency.py search     # settings of every method, on seeds of their own
    python scripts/sample_efficiency.py final      # the best of each, on seeds 0 to 4

``--task`` names one of :data:`TASKS`. Both write one JSON line a run, a table as JSON and a picture into the folder of
the task, and the final stage what ``r2vpo plot`` reads, into ``final/curves/``.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from r2vpo.llm.experiments.compare import compare_jobs
from r2vpo.llm.experiments.worker import Job
from r2vpo.runs.study import read_results
from r2vpo.runs.workers import Line


@dataclass(frozen=True)
class Task:
    """A task, and which methods are compared on it where none are named."""

    name: str
    """Of the dataset, and of the tiny model that is made for it."""
    folder: Path
    """Of the results."""
    methods: tuple[str, ...]
    """Rows of the table."""


_FOUR = ("grpo", "grpo-replay", "r2vpo-on", "r2vpo-off")
TASKS = {
    "arithmetic": Task(
        "arithmetic", Path("benchmarks/llm_arithmetic"), (*_FOUR[:2], "clip_higher", "gppo", "topr", *_FOUR[2:])
    ),
    "chain_sum": Task(
        "reasoning-gym:chain_sum,min_terms=3,max_terms=3,max_digits=1",
        Path("benchmarks/llm_reasoning/chain_sum"),
        _FOUR,
    ),
    "spell_backward": Task(
        "reasoning-gym:spell_backward,min_word_len=3,max_word_len=4",
        Path("benchmarks/llm_reasoning/spell_backward"),
        _FOUR,
    ),
}

LEARNING_RATES = (5e-5, 1e-4, 2e-4)
"""Every method is given all of them, with each of its own settings below."""

OWN_SETTINGS: dict[str, list[dict[str, Any]]] = {
    "grpo": [{}, {"eps": 0.1}, {"eps": 0.4}],
    "grpo-replay": [{}, {"buffer_iterations": 2}, {"eps": 0.1}],
    "clip_higher": [{}, {"eps_high": 0.4}, {"eps_low": 0.1}],
    "gppo": [{}, {"eps_high": 0.4}, {"eps_low": 0.1}],
    "topr": [{}, {"level": "sequence"}, {"epochs": 2}],
    "r2vpo-on": [{"lam": 0.04}, {"lam": 0.5}, {"dual": "adaptive", "delta": 0.02}],
    "r2vpo-off": [{"lam": 0.04}, {"lam": 0.5}, {"dual": "adaptive", "delta": 0.05}],
}
"""As many variants of each method, so that all are searched equally hard."""

SEARCH_SEEDS = (100,)
"""One seed a setting: it cannot rank close settings, but it finds the learning rates that break a method."""
FINAL_SEEDS = (0, 1, 2, 3, 4)
EVAL_EVERY = 4
"""Iterations of 512 rollouts between evaluations in the final stage: the resolution of the answer."""


@dataclass(frozen=True)
class Arguments:
    """What to run."""

    stage: Annotated[Literal["search", "final"], tyro.conf.Positional]
    """search tries the settings; final runs the best of each method on other seeds."""
    task: Literal["arithmetic", "chain_sum", "spell_backward"] = "arithmetic"
    """What is trained on."""
    methods: tuple[str, ...] | None = None
    """Rows of the table; those of the task when not given."""
    learning_rates: tuple[float, ...] = LEARNING_RATES
    """Tried with each variant in the search."""
    variants: int = 3
    """Settings of its own that the search tries for each method: the first so many of the list."""
    total_rollouts: int = 40_960
    """Of each run."""
    eval_every: int | None = None
    """Iterations between evaluations; when not given, the trainer's own in the search and EVAL_EVERY at the end."""
    seeds: int = len(FINAL_SEEDS)
    """Of the final stage: the first so many."""
    workers: int = 2
    """Runs at a time."""
    out: Path | None = None
    """Folder; each stage has one of its own in it. That of the task when not given."""


def candidates(method: str, learning_rates: tuple[float, ...], variants: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Label and settings of everything that is tried for a method."""
    for rate, own in itertools.product(learning_rates, OWN_SETTINGS[method][:variants]):
        words = [f"lr={rate:g}", *(f"{name}={value}" for name, value in own.items())]
        yield f"{method} {' '.join(words)}", {"learning_rate": rate, **own}


def area(line: Line) -> float:
    """Mean held-out accuracy over the whole run: rewards learning early and ending high."""
    return float(np.mean(line["accuracies"]))


def best_settings(lines: list[Line], method: str) -> dict[str, Any]:
    """Settings of a method with the highest mean area over the search seeds."""
    scores: dict[str, list[float]] = {}
    for line in lines:
        if line["method"] == method:
            scores.setdefault(json.dumps(line["settings"]), []).append(area(line))
    complete = {key: float(np.mean(values)) for key, values in scores.items() if len(values) == len(SEARCH_SEEDS)}
    if not complete:
        raise SystemExit(f"no finished search for {method}: run the search stage first")
    settings: dict[str, Any] = json.loads(max(complete, key=lambda key: complete[key]))
    return settings


def search_jobs(arguments: Arguments, task: Task, methods: tuple[str, ...]) -> list[Job]:
    """Every setting of every method."""
    evaluation = {} if arguments.eval_every is None else {"eval_every": arguments.eval_every}
    return [
        Job(method, seed, task.name, task.name, arguments.total_rollouts, {**settings, **evaluation}, label)
        for seed in SEARCH_SEEDS
        for method in methods
        for label, settings in candidates(method, arguments.learning_rates, arguments.variants)
    ]


def final_jobs(arguments: Arguments, task: Task, chosen: dict[str, dict[str, Any]]) -> list[Job]:
    """The chosen settings of each method on the final seeds, a seed after the other."""
    return [
        Job(
            method,
            seed,
            task.name,
            task.name,
            arguments.total_rollouts,
            {**settings, "eval_every": arguments.eval_every or EVAL_EVERY},
            keep=True,
        )
        for seed in FINAL_SEEDS[: arguments.seeds]
        for method, settings in chosen.items()
    ]


def main() -> None:
    """Run a stage."""
    arguments = tyro.cli(Arguments)
    task = TASKS[arguments.task]
    methods, out = arguments.methods or task.methods, arguments.out or task.folder
    if arguments.stage == "search":
        compare_jobs(search_jobs(arguments, task, methods), out / "search", arguments.workers)
        return
    lines = read_results(out / "search" / "runs.jsonl")
    chosen = {method: best_settings(lines, method) for method in methods}
    for method, settings in chosen.items():
        print(f"{method:12} {settings}")
    compare_jobs(final_jobs(arguments, task, chosen), out / "final", arguments.workers)


if __name__ == "__main__":
    main()
