"""``r2vpo llm compare``: several methods on the same problems and seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from r2vpo.errors import ConfigError, R2VPOError
from r2vpo.llm.config import METHODS, resolve_config
from r2vpo.llm.experiments.worker import Job

RESULTS, COMPARISON, PICTURE = "runs.jsonl", "comparison.json", "comparison.png"


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
    """No live line."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    command = tyro.cli(CompareCommand, args=list(arguments), prog="r2vpo llm compare")
    for name in ("seeds", "total_rollouts", "workers"):
        if getattr(command, name) < 1:
            raise ConfigError(name, getattr(command, name), "a whole number of at least 1")
    for method in command.methods:
        if method not in METHODS:
            raise ConfigError("methods", method, f"names among {', '.join(METHODS)}")
    settings = {} if command.learning_rate is None else {"learning_rate": command.learning_rate}
    jobs = [
        Job(method, seed, command.model, command.dataset, command.total_rollouts, settings, keep=command.keep_curves)
        for seed in range(command.seeds)
        for method in command.methods
    ]
    document = compare_jobs(jobs, command.out, command.workers, command.quiet)
    if command.json is not None:
        command.json.write_text(json.dumps(document, indent=1))
    return 0


def compare_jobs(jobs: Sequence[Job], out: Path, workers: int = 2, quiet: bool = False) -> dict[str, Any]:
    """Run what is missing of the jobs, then summarise all of them; returns what comparison.json holds.

    Raises:
        ConfigError: A job's settings are not allowed.
        R2VPOError: Runs failed; the others are finished and saved first.
    """
    from r2vpo.llm.experiments.summary import plot_methods, print_table, summarise_methods
    from r2vpo.runs.checkpoint import write_text_atomically
    from r2vpo.runs.provenance import machine_description, package_versions
    from r2vpo.runs.study import Cell, read_results, run_cells

    for job in jobs:
        resolve_config({"model": job.model, "dataset": job.dataset, "method": job.method, **job.settings})
    _make_model_once(jobs)
    out.mkdir(parents=True, exist_ok=True)
    cells = [Cell(job, job.key, job.total_rollouts, f"{job.name}, seed {job.seed}") for job in jobs]
    results = out / RESULTS
    failures = run_cells(cells, results, _key, "r2vpo.llm.experiments.worker", out / "runs", workers, "rollouts", quiet)
    # In the order of the jobs, whichever finished first.
    finished = {_key(line): line for line in read_results(results)}
    lines = [finished[job.key] for job in jobs if job.key in finished]
    rows = summarise_methods(lines)
    document = {"comparison": rows, "versions": package_versions(), "machine": machine_description()}
    write_text_atomically(out / COMPARISON, json.dumps(document, indent=1))
    if lines:
        print_table(rows)
        plot_methods(lines, out / PICTURE)
        for path in (results, out / COMPARISON, out / PICTURE):
            print(path)
    if failures:
        raise R2VPOError(f"{len(failures)} of {len(jobs)} runs failed; the first: {failures[0]}")
    return document


def _make_model_once(jobs: Sequence[Job]) -> None:
    """So that the workers do not all make it at once."""
    from r2vpo.llm.models.tiny_names import is_tiny, make_tiny

    for model in dict.fromkeys(job.model for job in jobs):
        if is_tiny(model):
            make_tiny(model)


def _key(line: dict[str, Any]) -> str:
    names = ("method", "seed", "model", "dataset", "total_rollouts", "settings", "label")
    return Job(**{name: line[name] for name in names}).key
