"""``r2vpo bench control``: training speed at Stable-Baselines3's own update budget, the two in alternation."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from r2vpo.errors import ConfigError, R2VPOError
from r2vpo.progress import LiveLine

SB3_BUDGET: dict[str, Any] = {
    "algo": "on-policy",
    "num_envs": 1,
    "rollout_steps": 2048,
    "minibatch_size": 64,
    "epochs": 10,
    "learning_rate": 3e-4,
}
"""What SB3 PPO does by default: 2048 steps of one environment, then 320 gradient steps on 64 samples each."""


@dataclass(frozen=True)
class BenchCommand:
    """Measure training steps per second beside Stable-Baselines3 PPO, each in processes of its own, in turn."""

    env: tuple[str, ...] = ("HalfCheetah-v5",)
    """Tasks."""
    alternations: int = 5
    """Pairs of measurements per task."""
    steps: int = 10_240
    """Environment steps of each measurement, rounded up to whole rollouts of 2048; one more, first, is not counted."""
    json: Path | None = None
    """Write the result to this file."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    command = tyro.cli(BenchCommand, args=list(arguments), prog="r2vpo bench control")
    for field in ("alternations", "steps"):
        if getattr(command, field) < 1:
            raise ConfigError(field, getattr(command, field), "a whole number of at least 1")
    from r2vpo.control.peers import require_installed
    from r2vpo.provenance import machine_description, package_versions, source_commit

    require_installed("sb3-ppo")
    with LiveLine(len(command.env) * command.alternations, "pairs") as line:
        cases = [measure_case(env, command, line, i) for i, env in enumerate(command.env)]
    document = {
        "command": f"r2vpo bench control {' '.join(arguments)}".strip(),
        "cases": cases,
        "versions": package_versions(),
        "machine": machine_description(),
        "commit": source_commit(),
    }
    if command.json is not None:
        command.json.write_text(json.dumps(document, indent=2) + "\n")
    for case in cases:
        print(
            f"{case['name']}: {case['ours']:,.0f} steps/s, SB3 PPO {case['peer']:,.0f}: "
            f"{case['ratio']:.2f} times ({case['ratio_min']:.2f} to {case['ratio_max']:.2f})"
        )
    return 0


def measure_case(env: str, command: BenchCommand, line: LiveLine, index: int) -> dict[str, Any]:
    """Alternate ours and SB3's on one task; medians, and the ratio pair by pair."""
    runs = []
    for pair in range(command.alternations):
        ours, peer = (_in_own_process(who, env, command.steps) for who in ("ours", "sb3-ppo"))
        runs.append({"ours": ours, "peer": peer, "ratio": ours / peer})
        line.update(index * command.alternations + pair + 1, ratio=ours / peer)
    ratios = [run["ratio"] for run in runs]
    return {
        "name": f"{env}, SB3's budget, 1 environment, 1 torch thread",
        "ours": float(np.median([run["ours"] for run in runs])),
        "peer": float(np.median([run["peer"] for run in runs])),
        "unit": "environment steps/s of training",
        "ratio": float(np.median(ratios)),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "runs": runs,
    }


def measure(who: str, env: str, steps: int) -> float:
    """Steps per second of training after one uncounted rollout, in this process with one torch thread."""
    import torch

    torch.set_num_threads(1)
    rollout = SB3_BUDGET["rollout_steps"]
    steps = -(-steps // rollout) * rollout
    timer: Callable[[], float] = _time_peer(env, steps) if who == "sb3-ppo" else _time_ours(env, steps)
    return steps / timer()


def _time_ours(env: str, steps: int) -> Callable[[], float]:
    from r2vpo.control.algorithm import R2VPO

    model = R2VPO(env, **SB3_BUDGET).learn(SB3_BUDGET["rollout_steps"])
    before = model.train_seconds

    def timer() -> float:
        model.learn(steps, reset_num_timesteps=False)
        return model.train_seconds - before

    return timer


def _time_peer(env: str, steps: int) -> Callable[[], float]:
    from r2vpo.control.peers import train_peer

    def timer() -> float:
        warm = train_peer("sb3-ppo", env, 0, SB3_BUDGET["rollout_steps"]).train_seconds
        return train_peer("sb3-ppo", env, 0, SB3_BUDGET["rollout_steps"] + steps).train_seconds - warm

    return timer


def _in_own_process(who: str, env: str, steps: int) -> float:
    words = [sys.executable, "-m", "r2vpo.control.bench", who, env, str(steps)]
    result = subprocess.run(words, capture_output=True, text=True)
    if result.returncode:
        raise R2VPOError(f"measuring {who} on {env} failed: {result.stderr.strip().splitlines()[-1:]}")
    return float(result.stdout.split()[-1])


if __name__ == "__main__":
    print(measure(sys.argv[1], sys.argv[2], int(sys.argv[3])))
