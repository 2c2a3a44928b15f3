"""Several algorithms on the same tasks, steps and seeds: a resumable list of runs, a table and a picture."""

from __future__ import annotations

import json
from typing import Any

from r2vpo.checkpoint import write_text_atomically
from r2vpo.control.commands import CompareCommand
from r2vpo.control.comparison import plot_comparison, print_table, summarise_lines
from r2vpo.control.jobs import Job
from r2vpo.control.peers import PEERS, require_installed
from r2vpo.control.presets import VARIANTS
from r2vpo.envs.making import make_env, require_box_spaces
from r2vpo.errors import ConfigError, R2VPOError
from r2vpo.provenance import machine_description, package_versions
from r2vpo.study import Cell, read_results, run_cells

RESULTS = "runs.jsonl"
COMPARISON = "comparison.json"
PICTURE = "comparison.png"


def compare(command: CompareCommand) -> dict[str, Any]:
    """Run what is missing, then summarise everything; returns what comparison.json holds.

    Raises:
        ConfigError: Unknown or missing algorithm, unknown environment, or a count below 1.
        R2VPOError: Runs failed; the others are finished and saved first.
    """
    _check(command)
    command.out.mkdir(parents=True, exist_ok=True)
    jobs = [
        Job(algo, env, seed, command.total_steps, command.episodes)
        for seed in range(command.seeds)
        for env in command.env
        for algo in command.algos
    ]
    results = command.out / RESULTS
    cells = [Cell(job, job.key, job.total_steps, f"{job.algo} {job.env}, seed {job.seed}") for job in jobs]
    failures = run_cells(
        cells,
        results,
        lambda line: Job(*_identity(line)).key,
        "r2vpo.control.worker",
        command.out / "runs",
        command.workers,
        "steps",
        command.quiet,
    )
    wanted = {job.key for job in jobs}
    lines = [line for line in read_results(results) if Job(*_identity(line)).key in wanted]
    document = {"comparison": summarise_lines(lines), "versions": package_versions(), "machine": machine_description()}
    text = json.dumps(document, indent=1)
    write_text_atomically(command.out / COMPARISON, text)
    if command.json is not None:
        write_text_atomically(command.json, text)
    if lines:
        print_table(document["comparison"])
        plot_comparison(lines, command.out / PICTURE)
        for path in (results, command.out / COMPARISON, command.out / PICTURE):
            print(path)
    if failures:
        raise R2VPOError(f"{len(failures)} of {len(jobs)} runs failed; the first: {failures[0]}")
    return document


def _identity(line: dict[str, Any]) -> tuple[str, str, int, int]:
    return line["algo"], line["env"], line["seed"], line["total_steps"]


def _check(command: CompareCommand) -> None:
    for field in ("seeds", "total_steps", "workers", "episodes"):
        if getattr(command, field) < 1:
            raise ConfigError(field, getattr(command, field), "a whole number of at least 1")
    for algo in command.algos:
        if algo in PEERS:
            require_installed(algo)
        elif algo not in VARIANTS:
            raise ConfigError("algos", algo, f"one of {', '.join([*VARIANTS, *PEERS])}")
    for env_id in command.env:
        env = make_env(env_id)
        require_box_spaces(env)
        env.close()
