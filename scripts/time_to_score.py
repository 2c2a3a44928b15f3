"""How long do we train until we return what Stable-Baselines3 PPO returns at the end of its run?

Reads the lines of a comparison and the speeds of a benchmark, both measured elsewhere: runs of a comparison share
the machine with each other, so their own clocks say little. Time is environment steps divided by measured speed.

    r2vpo control compare --env HalfCheetah-v5 Hopper-v5 --algos sb3-ppo --total-steps 1000000 \
        --out benchmarks/control_1m
    r2vpo control compare --env HalfCheetah-v5 Hopper-v5 --algos r2vpo-off --total-steps 300000 \
        --out benchmarks/control_300k
    r2vpo bench control --json benchmarks/control_speed.json
    r2vpo bench control --env Hopper-v5 --measure sb3-1 off --json benchmarks/control_speed_tasks.json
    python scripts/time_to_score.py
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from r2vpo.errors import ConfigError
from r2vpo.runs.plotting import draw_band, new_figure, save_figure
from r2vpo.runs.provenance import provenance
from r2vpo.runs.stats import interquartile_mean, summarise
from r2vpo.runs.study import read_results

PEER = "sb3-ppo"
MEASURED_AS = {PEER: "sb3-1", "r2vpo-off": "off", "r2vpo-fast": "fast"}
"""Algorithm of the comparison: what the benchmark calls its speed."""
LAST = 0.1
"""Share of the peer's run whose mean training return is the score to reach."""


@dataclass(frozen=True)
class Arguments:
    """Time that we need for SB3 PPO's final training return."""

    peer: Path = Path("benchmarks/control_1m/runs.jsonl")
    """Runs of SB3 PPO, from `r2vpo control compare`."""
    ours: Path = Path("benchmarks/control_300k/runs.jsonl")
    """Our runs, of any length; a seed that does not reach the score in its run never does."""
    speeds: tuple[Path, ...] = (Path("benchmarks/control_speed.json"), Path("benchmarks/control_speed_tasks.json"))
    """Results of `r2vpo bench control` for the same tasks."""
    algo: str = "r2vpo-off"
    """Our algorithm."""
    out: Path = Path("benchmarks/control_1m/time_to_score")
    """Results go to OUT.json and OUT.png."""


def main() -> None:
    """Compare, print, write."""
    arguments = tyro.cli(Arguments, description=__doc__)
    if arguments.algo not in MEASURED_AS:
        raise ConfigError("algo", arguments.algo, f"one of {', '.join(name for name in MEASURED_AS if name != PEER)}")
    lines = [line for line in read_results(arguments.peer) if line["algo"] == PEER]
    tasks = {line["env"] for line in lines}
    lines += [line for line in read_results(arguments.ours) if line["algo"] == arguments.algo and line["env"] in tasks]
    speeds: dict[str, Any] = {}
    for path in arguments.speeds:
        speeds |= json.loads(path.read_text())["rounds"]
    results = [
        compare(env, [line for line in lines if line["env"] == env], arguments.algo, median_speeds(speeds[env]))
        for env in dict.fromkeys(line["env"] for line in lines)
        if env in speeds
    ]
    document = {
        "command": shlex.join(["python", "scripts/time_to_score.py", *sys.argv[1:]]),
        "tasks": results,
        **provenance(),
    }
    arguments.out.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    plot(lines, results, arguments.algo, arguments.out.with_suffix(".png"))
    for result in results:
        ours = ", ".join("never" if seconds is None else f"{seconds:.0f}" for seconds in result["seconds"])
        print(
            f"{result['env']}: SB3 PPO returns {result['score']:.0f} after {result['peer_seconds']:.0f} s; "
            f"ours in {ours} s, median {result['share']} of the time"
        )


def median_speeds(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """Environment steps per second of each algorithm."""
    return {
        algo: float(np.median([one[name]["steps_per_second"] for one in rounds]))
        for algo, name in MEASURED_AS.items()
        if name in rounds[0]
    }


def compare(env: str, lines: list[dict[str, Any]], algo: str, speeds: dict[str, float]) -> dict[str, Any]:
    """Seconds until each of our seeds returns the peer's score, IQM over its seeds."""
    peers = sorted((line for line in lines if line["algo"] == PEER), key=lambda line: line["seed"])
    ours = sorted((line for line in lines if line["algo"] == algo), key=lambda line: line["seed"])
    score = float(interquartile_mean([final_return(line) for line in peers]))
    peer_seconds = peers[0]["total_steps"] / speeds[PEER]
    reached = [first_step(line, score) for line in ours]
    seconds = [None if step is None else step / speeds[algo] for step in reached]
    # A seed that never gets there counts as if it took for ever, which a median survives and a mean would not.
    median = float(np.median([np.inf if s is None else s for s in seconds]))
    return {
        "env": env,
        "score": score,
        "peer_final_returns": {line["seed"]: final_return(line) for line in peers},
        "peer_steps": peers[0]["total_steps"],
        "peer_seconds": peer_seconds,
        "steps_per_second": speeds,
        "steps": reached,
        "seconds": seconds,
        "seeds": [line["seed"] for line in ours],
        "median_seconds": None if np.isinf(median) else median,
        "share": None if np.isinf(median) else round(median / peer_seconds, 4),
        "our_final_returns": summarise([final_return(line) for line in ours]),
    }


def final_return(line: dict[str, Any]) -> float:
    """Mean training return over the last part of a run."""
    returns = [value for value in line["returns"] if value is not None]
    return float(np.mean(returns[-max(1, round(LAST * len(line["returns"]))) :]))


def first_step(line: dict[str, Any], score: float) -> int | None:
    """First step at which the training return, in windows of a fiftieth of the run, is at least the score."""
    for step, value in zip(line["steps"], line["returns"], strict=True):
        if value is not None and value >= score:
            return int(step)
    return None


def plot(lines: list[dict[str, Any]], results: list[dict[str, Any]], algo: str, path: Path) -> None:
    """Training return over wall-clock seconds, which is drawn on a logarithmic axis."""
    figure, axes = new_figure(1, len(results), (5.5 * len(results), 4.0))
    for axis, result in zip(axes.flat, results, strict=True):
        for name, color in ((PEER, "C1"), (algo, "C0")):
            runs = [line for line in lines if line["env"] == result["env"] and line["algo"] == name]
            returns = np.array([[np.nan if value is None else value for value in run["returns"]] for run in runs])
            seconds = np.array(runs[0]["steps"]) / result["steps_per_second"][name]
            draw_band(axis, seconds, returns, color, f"{name}, {len(runs)} seeds")
        axis.axhline(result["score"], color="C1", linestyle=":", linewidth=1)
        axis.set_xscale("log")
        axis.set_title(result["env"])
        axis.set_xlabel("seconds of training")
        axis.set_ylabel("training return, IQM")
    axes.flat[0].legend(fontsize=8)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
