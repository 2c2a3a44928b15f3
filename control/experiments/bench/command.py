"""``r2vpo bench control``: training speed beside Stable-Baselines3 PPO and beside the physics alone, in alternation."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import tyro

from r2vpo.control.experiments.bench.runs import LABELS, OURS, PEERS, PHYSICS, Measurement
from r2vpo.errors import ConfigError, R2VPOError
from r2vpo.runs.checkpoint import write_text_atomically
from r2vpo.runs.progress import LiveLine

RATIOS = (
    ("budget-1", "sb3-1"),
    ("budget", "sb3-1"),
    ("budget", "sb3-8"),
    ("fast", "sb3-1"),
    ("fast", "sb3-8"),
    ("fast", "physics"),
    ("off", "sb3-1"),
    ("off-overlap", "sb3-1"),
)
"""What is divided by what, alternation by alternation."""

OURS_TAKES = 8
"""Times as many steps as the others, so that all are timed for seconds."""


Measured = Literal["sb3-1", "sb3-8", "physics", "budget-1", "budget", "fast", "off", "off-overlap"]


@dataclass(frozen=True)
class BenchCommand:
    """Measure training steps per second: ours, Stable-Baselines3 PPO's and the bare physics', in turn."""

    env: tuple[str, ...] = ("HalfCheetah-v5",)
    """Tasks."""
    measure: tuple[Measured, ...] = get_args(Measured)
    """What to measure. sb3-1 and sb3-8: SB3 PPO with 1 and 8 environments. physics: mujoco.rollout alone. budget-1 and
    budget: R²VPO at SB3's own update budget with 1 and 16 environments. fast: the fast preset. off: the preset for
    off-policy training, which takes more gradient steps, and off-overlap the same overlapped."""
    alternations: int = 5
    """Rounds in which each is measured once, in a process of its own."""
    steps: int = 10_240
    """Environment steps of each of SB3's measurements; ours take eight times as many."""
    json: Path | None = None
    """Write the result to this file, and a picture beside it."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    command = tyro.cli(BenchCommand, args=list(arguments), prog="r2vpo bench control")
    for field in ("alternations", "steps"):
        if getattr(command, field) < 1:
            raise ConfigError(field, getattr(command, field), "a whole number of at least 1")
    from r2vpo.control.experiments.peers import require_installed

    require_installed("sb3-ppo")
    rounds: dict[str, list[dict[str, Measurement]]] = {env: [] for env in command.env}
    with LiveLine(len(command.env) * command.alternations * len(command.measure), "measurements") as line:
        for env, done in rounds.items():
            for _ in range(command.alternations):
                done.append(_one_round(env, command.measure, command.steps, line))
                _write(command, arguments, rounds)
    print_table(summarise(rounds))
    return 0


def summarise(rounds: dict[str, list[dict[str, Measurement]]]) -> list[dict[str, Any]]:
    """One case for each task and pair of :data:`RATIOS`: medians, and the ratios of each round."""
    return [
        _case(env, ours, peer, done)
        for env, done in rounds.items()
        for ours, peer in RATIOS
        if done and ours in done[0] and peer in done[0]
    ]


def print_table(cases: Sequence[dict[str, Any]]) -> None:
    """One line a case."""
    for case in cases:
        print(
            f"{case['env']:<16}{case['ours_name']:<52}{case['ours']:>8,.0f} steps/s  {case['peer_name']:<56}"
            f"{case['peer']:>8,.0f}  {case['ratio']:6.2f} times ({case['ratio_min']:.2f} to {case['ratio_max']:.2f})"
        )


def _case(env: str, ours: str, peer: str, done: Sequence[dict[str, Measurement]]) -> dict[str, Any]:
    runs = [{"ours": one[ours]["steps_per_second"], "peer": one[peer]["steps_per_second"]} for one in done]
    ratios = [run["ours"] / run["peer"] for run in runs]
    case = {
        "name": f"{env}: {LABELS[ours]} / {LABELS[peer]}",
        "env": env,
        "ours_name": LABELS[ours],
        "peer_name": LABELS[peer],
        "ours": float(np.median([run["ours"] for run in runs])),
        "peer": float(np.median([run["peer"] for run in runs])),
        "unit": "environment steps/s of training",
        "ratio": float(np.median(ratios)),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "peak_mb": {who: float(np.median([one[who]["peak_mb"] for one in done])) for who in (ours, peer)},
        "runs": runs,
    }
    splits = [one[ours]["seconds_per_step"] for one in done if "seconds_per_step" in one[ours]]
    if splits:
        case["microseconds_per_step"] = {
            part: 1e6 * float(np.median([split[part] for split in splits])) for part in splits[0]
        }
    return case


def _one_round(env: str, names: Sequence[str], steps: int, line: LiveLine) -> dict[str, Measurement]:
    results = {}
    for name in names:
        results[name] = _in_own_process(name, env, steps * (OURS_TAKES if name in OURS or name == "physics" else 1))
        line.update(line.done + 1, now=f"{env} {name}", last=f"{results[name]['steps_per_second']:,.0f} steps/s")
    return results


def _in_own_process(name: str, env: str, steps: int) -> Measurement:
    words = [sys.executable, "-m", "r2vpo.control.experiments.bench.runs", name, env, str(steps)]
    result = subprocess.run(words, capture_output=True, text=True)
    if result.returncode:
        raise R2VPOError(f"measuring {name} on {env} failed: {result.stderr.strip().splitlines()[-1:]}")
    measurement: Measurement = json.loads(result.stdout.splitlines()[-1])
    return measurement


def _write(command: BenchCommand, arguments: Sequence[str], rounds: dict[str, list[dict[str, Measurement]]]) -> None:
    """After every round, so that an interruption costs one of them."""
    if command.json is None:
        return
    from r2vpo.runs.provenance import provenance

    document = {
        "command": shlex.join(["r2vpo", "bench", "control", *arguments]),
        "cases": summarise(rounds),
        "rounds": rounds,
        **provenance(),
    }
    command.json.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(command.json, json.dumps(document, indent=1) + "\n")
    plot_speed(rounds, command.json.with_suffix(".png"))


def plot_speed(rounds: dict[str, list[dict[str, Measurement]]], path: Path) -> None:
    """A bar for each measured thing: median steps per second, with its range and its multiple of SB3's default.

    Args:
        rounds: For each task, the measurements of each round by name.
        path: PNG to write.
    """
    from r2vpo.runs.plotting import new_figure, save_figure

    tasks = {env: done for env, done in rounds.items() if done}
    figure, grid = new_figure(len(tasks), 1, (9.0, 0.6 + 2.8 * len(tasks)))
    for axes, (env, done) in zip(grid[:, 0], tasks.items(), strict=True):
        names = [name for name in LABELS if name in done[0]]
        speeds = np.array([[one[name]["steps_per_second"] for one in done] for name in names])
        medians = np.median(speeds, axis=1)
        spread = [medians - speeds.min(axis=1), speeds.max(axis=1) - medians]
        colors = ["0.75" if name == PHYSICS else "tab:orange" if name in PEERS else "tab:blue" for name in names]
        axes.barh(range(len(names)), medians, xerr=spread, color=colors, height=0.7)
        for row, (name, median) in enumerate(zip(names, medians, strict=True)):
            text = f" {median:,.0f}"
            if "sb3-1" in names and name != "sb3-1":
                text += f"  ({median / medians[names.index('sb3-1')]:.1f}×)"
            axes.text(speeds[row].max(), row, text, va="center", fontsize=8)
        axes.set_yticks(range(len(names)), [LABELS[name] for name in names], fontsize=8)
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.margins(x=0.18)
        axes.set_title(env, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("environment steps per second of training (× SB3 PPO with 1 environment)")
    save_figure(figure, path)
