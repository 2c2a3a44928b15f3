"""Sample efficiency on the arithmetic task: how many rollouts each method needs for GRPO's best accuracy.

The claim to test is the first paper's, that off-policy R²VPO needs about half (arXiv 2601.03320, Figure 1). Two stages,
each resumable:

    python scripts/arithmetic_sample_efficiency.py search     # settings of every method, on seeds of their own
    python scripts/arithmetic_sample_efficiency.py final      # the best of each, on seeds 0 to 4

Both write one JSON line a run, a table as JSON and a picture into benchmarks/llm_arithmetic/.
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

from r2vpo.llm.compare import compare_jobs
from r2vpo.llm.worker import Job
from r2vpo.study import Line, read_results

LEARNING_RATES = (5e-5, 1e-4, 2e-4)
"""Every method is given all of them, with each of its own settings below."""

OWN_SETTINGS: dict[str, list[dict[str, Any]]] = {
    "grpo": [{}, {"eps": 0.1}],
    "grpo-replay": [{}, {"buffer_iterations": 2}],
    "clip_higher": [{}, {"eps_high": 0.4}],
    "gppo": [{}, {"eps_high": 0.4}],
    "topr": [{}, {"level": "sequence"}],
    "r2vpo-on": [{"lam": 0.04}, {"lam": 0.5}],
    "r2vpo-off": [{"lam": 0.04}, {"lam": 0.5}],
}
"""Two variants of each method, so that all are searched equally hard."""

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
    methods: tuple[str, ...] = tuple(OWN_SETTINGS)
    """Rows of the table."""
    total_rollouts: int = 40_960
    """Of each run."""
    workers: int = 2
    """Runs at a time."""
    out: Path = Path("benchmarks/llm_arithmetic")
    """Folder; each stage has one of its own in it."""


def candidates(method: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Label and settings of everything that is tried for a method."""
    for rate, own in itertools.product(LEARNING_RATES, OWN_SETTINGS[method]):
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


def main() -> None:
    """Run a stage."""
    arguments = tyro.cli(Arguments)
    search = arguments.out / "search"
    if arguments.stage == "search":
        jobs = [
            Job(method, seed, "arithmetic", "arithmetic", arguments.total_rollouts, settings, label)
            for seed in SEARCH_SEEDS
            for method in arguments.methods
            for label, settings in candidates(method)
        ]
        compare_jobs(jobs, search, arguments.workers)
        return
    lines = read_results(search / "runs.jsonl")
    chosen = {method: best_settings(lines, method) for method in arguments.methods}
    for method, settings in chosen.items():
        print(f"{method:12} {settings}")
    jobs = [
        Job(method, seed, "arithmetic", "arithmetic", arguments.total_rollouts, {**settings, "eval_every": EVAL_EVERY})
        for seed in FINAL_SEEDS
        for method, settings in chosen.items()
    ]
    compare_jobs(jobs, arguments.out / "final", arguments.workers)


if __name__ == "__main__":
    main()
