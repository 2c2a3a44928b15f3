"""What do the checks of environments cost, beside a step of Gymnasium's environments and of the native engine?

The answers of real environments are recorded and given again by a stand-in, so that what is timed with the gate and
without it differs in the gate alone. Times are of this process's CPU, the least of several rounds, each with a seed of
its own.

    python scripts/gate_cost.py --out benchmarks/env_gate.json
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro

from r2vpo.envs.gate import Gate, held, require_actions, require_held
from r2vpo.envs.making import make_env
from r2vpo.envs.native import NativeVectorEnv, supports
from r2vpo.runs.provenance import provenance


@dataclass(frozen=True)
class Arguments:
    """Time the checks of environments."""

    env: tuple[str, ...] = ("HalfCheetah-v5", "Hopper-v5", "Humanoid-v5", "Pendulum-v1", "MountainCarContinuous-v0")
    """Tasks."""
    num_envs: int = 16
    """Environments side by side."""
    steps: int = 2_000
    """Of each timing, over all environments."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """One round with each."""
    out: Path = Path("benchmarks/env_gate.json")
    """Where results go."""


class StandIn(gym.Env):
    """Answers each step with the next of some recorded answers."""

    def __init__(self, env: gym.Env, answers: list[Any]) -> None:
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self._next = cycle(answers).__next__

    def step(self, action: Any) -> Any:
        """The next answer, whatever the action."""
        return self._next()


def seconds(function: Callable[[], object], calls: int) -> float:
    """CPU time of one call."""
    started = time.process_time()
    for _ in range(calls):
        function()
    return (time.process_time() - started) / calls


def one_round(name: str, seed: int, num_envs: int, steps: int) -> dict[str, float]:
    """CPU seconds of one environment's step: Gymnasium's, the gate's part of it, the native engine's and its checks."""
    env, rng = make_env(name), np.random.default_rng(seed)
    actions = rng.uniform(env.action_space.low, env.action_space.high, (64, *env.action_space.shape))
    chosen = cycle(actions.astype(env.action_space.dtype)).__next__
    answers: list[Any] = []
    env.reset(seed=seed)

    def step() -> None:
        answers.append(env.step(chosen()))
        if answers[-1][2] or answers[-1][3]:
            env.reset()

    taken = {"gymnasium": seconds(step, steps)}
    stand_in = StandIn(env, answers)
    gates = [Gate(stand_in, name, i, num_envs) for i in range(num_envs)]
    rows = np.array([answer[0] for answer in answers[:num_envs]], np.float64)
    batch = actions[:num_envs].astype(env.action_space.dtype)
    alone, gated = (seconds(lambda one=one: one.step(None), 10 * steps) for one in (stand_in, gates[0]))
    together = seconds(lambda: (require_actions(gates, batch), require_held(gates, rows)), steps)
    taken["gate"] = gated - alone + together / num_envs
    if supports(name):
        native = NativeVectorEnv(name, num_envs, threads=1)
        native.reset(seed)
        taken["native"] = seconds(lambda: native.step(batch), max(1, steps // num_envs)) / num_envs
        rewards = np.zeros(num_envs)
        taken["native_checks"] = seconds(lambda: (held(batch), held(rewards), held(rows)), steps) / num_envs
        native.close()
    env.close()
    return taken


def main() -> None:
    """Measure, write and print."""
    arguments = tyro.cli(Arguments, description=__doc__)
    cases = []
    for name in arguments.env:
        rounds = [one_round(name, seed, arguments.num_envs, arguments.steps) for seed in arguments.seeds]
        least = {part: 1e6 * min(one[part] for one in rounds) for part in rounds[0]}
        shares = {"gate_of_gymnasium": least["gate"] / least["gymnasium"]}
        if "native" in least:
            shares["checks_of_native"] = least["native_checks"] / least["native"]
            shares["gate_of_native"] = least["gate"] / least["native"]
        cases.append({"env": name, "microseconds": least, "shares": shares, "rounds": rounds})
        print(name, *(f"{part} {value:.2f} us" for part, value in least.items()), sep="  ")
        print(" " * len(name), *(f"{which} {100 * share:.2f} %" for which, share in shares.items()), sep="  ")
    command = shlex.join(["python", "scripts/gate_cost.py", *sys.argv[1:]])
    document = {"command": command, "seeds": arguments.seeds, "cases": cases, **provenance()}
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
