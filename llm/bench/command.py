"""``r2vpo bench llm``: training speed beside TRL's GRPOTrainer, rollout engines, and log-probs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from r2vpo.errors import ConfigError
from r2vpo.llm.bench.cases import Pair, make_pairs, summarize
from r2vpo.llm.bench.process import contest
from r2vpo.llm.bench.workload import Workload
from r2vpo.runs.progress import LiveLine


@dataclass(frozen=True)
class BenchCommand:
    """Measure the language-model trainer beside others, each in processes of its own, in turn, on the CPU."""

    cases: tuple[Literal["trl", "trl-long", "engines", "logprob"], ...] = ("trl", "engines", "logprob")
    """trl: training beside TRL, and trl-long the same with completions of 64 tokens instead of 8. engines: tokens per
    second of the engines, and where an iteration's time goes. logprob: per-token log-probs beside the naive way."""
    repeats: int = 5
    """Pairs of fresh processes per case."""
    turns: int = 4
    """Turns of each process after its warm-up; an iteration, a round of generation or a pass."""
    json: Path | None = None
    """Write the result to this file."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    command = tyro.cli(BenchCommand, args=list(arguments), prog="r2vpo bench llm")
    for field in ("repeats", "turns"):
        if getattr(command, field) < 1:
            raise ConfigError(field, getattr(command, field), "a whole number of at least 1")
    pairs = [pair for case in command.cases for pair in make_pairs(case, command.turns, Workload())]
    cases: list[dict[str, Any]] = []
    try:
        run(pairs, command.repeats, cases)
    finally:
        # An interruption or a failure costs the pair it falls into and no other.
        if cases and command.json is not None:
            document = {"command": shlex.join(["r2vpo", "bench", "llm", *arguments]), **with_provenance(cases)}
            write_json(command.json, document)
        print_table(cases)
    return 0


def run(pairs: Sequence[Pair], repeats: int, cases: list[dict[str, Any]]) -> None:
    """Measure every pair, with a live line, and append what :func:`r2vpo.llm.bench.cases.summarize` makes of it."""
    done = 0
    # This process must stay small, because a child's peak memory on Linux starts at its parent's: no torch here.
    with LiveLine(len(pairs) * repeats, "pairs of processes") as line:
        for pair in pairs:
            results = []
            for _ in range(repeats):
                results.append(contest(pair.ours, pair.peer, pair.turns))
                done += 1
                latest = summarize(pair, results)[0]
                line.update(done, measuring=pair.label, ratio=latest["ratio"])
            cases += summarize(pair, results)


def with_provenance(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """The cases with versions, machine and commit."""
    from r2vpo.runs.provenance import provenance

    return {"cases": cases, **provenance()}


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a result file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def print_table(cases: Sequence[dict[str, Any]]) -> None:
    """One line a case, under the name of what was measured."""
    name = ""
    for case in cases:
        if case["name"] != name:
            name = case["name"]
            print(f"\n{name}")
        ratio = f"{case['ratio']:.2f} times ({case['ratio_min']:.2f} to {case['ratio_max']:.2f})"
        figures = f"ours {case['ours']:,.4g}, {case['peer_name']} {case['peer']:,.4g}"
        print(f"  {case['unit']:<53}{figures}: {ratio}")
        for side, seconds in case.get("seconds_per_iteration", {}).items():
            split = ", ".join(f"{phase} {value:.3f}" for phase, value in seconds.items())
            print(f"    seconds of an iteration, {side}: {split}")
