"""What ``r2vpo bench control`` measures, each in a process of its own.

Run as ``python -m r2vpo.control.experiments.bench.runs NAME ENV STEPS``; prints a JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from r2vpo.processes import peak_mib

SB3_BUDGET: dict[str, Any] = {
    "algo": "on-policy",
    "minibatch_size": 64,
    "epochs": 10,
    "estimates": 1,
    "learning_rate": 3e-4,
    "lr_schedule": "constant",
    "gradient_step": "compiled",
}
"""What SB3 PPO does by default: 320 gradient steps on 64 samples each for every 2048 environment steps."""

PHYSICS_ENVS = 64

Measurement = dict[str, Any]
"""``steps_per_second``, ``peak_mb`` (resident memory of the process and its children), and for our own
trainer ``seconds_per_step``: an environment step's time in ``environments``, ``inference`` and ``learning``."""

OURS: dict[str, dict[str, Any]] = {
    "budget-1": {**SB3_BUDGET, "num_envs": 1, "rollout_steps": 2048},
    "budget": {**SB3_BUDGET, "num_envs": 16, "rollout_steps": 128},
    "fast": {"preset": "fast", "gradient_step": "compiled"},
    "off": {"gradient_step": "compiled"},
    "off-overlap": {"gradient_step": "compiled", "overlap": True},
}
PEERS = {"sb3-1": 1, "sb3-8": 8}
"""Name: environments side by side; each takes 2048 steps an iteration in all."""
PHYSICS = "physics"

LABELS = {
    "sb3-1": "SB3 PPO, 1 environment",
    "sb3-8": "SB3 PPO, 8 environments",
    "physics": f"mujoco.rollout alone, {PHYSICS_ENVS} environments, all cores",
    "budget-1": "R²VPO at SB3's budget, 1 environment",
    "budget": "R²VPO at SB3's budget, 16 environments",
    "fast": "R²VPO, fast preset",
    "off": "R²VPO off-policy, the default",
    "off-overlap": "R²VPO off-policy, the default, overlapped",
}


def measure(name: str, env: str, steps: int) -> Measurement:
    """Speed of one trainer, or of the physics, after a warm-up that is not counted.

    Args:
        name: A key of :data:`LABELS`.
        env: Task.
        steps: Environment steps to time; rounded up to whole rollouts.
    """
    if name == PHYSICS:
        result = measure_physics(env, steps)
    elif name in PEERS:
        result = measure_peer(env, PEERS[name], steps)
    else:
        result = measure_ours(env, OURS[name], steps)
    return {**result, "peak_mb": peak_mib(with_child=True)}


def measure_ours(env: str, settings: dict[str, Any], steps: int) -> Measurement:
    """Training speed of our trainer, and where its time goes."""
    from r2vpo.control.algorithm import R2VPO

    model = R2VPO(env, **settings)
    rollout = model.config.rollout_size
    # The second learn() finds the compiled step of the first, so that no compilation is timed.
    model.learn(2 * rollout)
    before = model.train_seconds
    model.learn(-(-steps // rollout) * rollout, reset_num_timesteps=False)
    assert model.gradient_step is not None
    seconds = model.train_seconds - before - model.gradient_step.seconds
    taken = model.num_timesteps - 2 * rollout
    parts = {} if model.config.overlap else {"seconds_per_step": _parts(model)}
    model.close()
    return {"steps_per_second": taken / seconds, **parts}


def _parts(model: Any, iterations: int = 5) -> dict[str, float]:
    """Seconds of one environment step spent in the environments, in acting and bookkeeping, and in learning."""
    collector, spent = model.collector, {"environments": 0.0, "collecting": 0.0, "learning": 0.0}
    collector.envs.step = _timed(collector.envs.step, spent, "environments")
    collect = _timed(collector.collect, spent, "collecting")
    learn = _timed(model.learner.update, spent, "learning")
    for _ in range(iterations):
        rollout, _finished = collect(model.config.rollout_steps)
        learn(rollout, model.config.learning_rate)
    spent["inference"] = spent.pop("collecting") - spent["environments"]
    return {part: seconds / (iterations * model.config.rollout_size) for part, seconds in spent.items()}


def _timed(function: Callable[..., Any], spent: dict[str, float], part: str) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        started = time.perf_counter()
        result = function(*arguments)
        spent[part] += time.perf_counter() - started
        return result

    return call


def measure_peer(env: str, num_envs: int, steps: int) -> Measurement:
    """Training speed of SB3 PPO at its defaults, on normalised observations and rewards, with one torch thread."""
    import torch

    from r2vpo.control.experiments.peers import SB3_PPO

    torch.set_num_threads(1)
    iteration = 2048
    model = SB3_PPO.make(env, 0, num_envs=num_envs, n_steps=iteration // num_envs)
    model.learn(iteration)
    steps = -(-steps // iteration) * iteration
    started = time.perf_counter()
    model.learn(steps, reset_num_timesteps=False)
    return {"steps_per_second": steps / (time.perf_counter() - started)}


def measure_physics(env: str, steps: int) -> Measurement:
    """Environment steps per second of ``mujoco.rollout`` with random controls and nothing around it."""
    import mujoco
    from mujoco import rollout

    from r2vpo.envs.making import make_env
    from r2vpo.envs.native.simulations import default_threads

    base: Any = make_env(env).unwrapped
    base.reset(seed=0)
    model, threads = base.model, default_threads(PHYSICS_ENVS)
    kind = mujoco.mjtState.mjSTATE_FULLPHYSICS
    states = np.zeros((PHYSICS_ENVS, mujoco.mj_stateSize(model, kind)))
    mujoco.mj_getState(model, base.data, states[0], kind)
    states[:] = states[0]
    datas = [mujoco.MjData(model) for _ in range(threads)]
    rng = np.random.default_rng(0)
    low, high = base.action_space.low, base.action_space.high
    with rollout.Rollout(nthread=threads) as pool:

        def run(calls: int) -> None:
            for _ in range(calls):
                controls = rng.uniform(low, high, (PHYSICS_ENVS, 1, model.nu)).repeat(base.frame_skip, axis=1)
                result, _sensors = pool.rollout(model, datas, states, controls)
                states[:] = result[:, -1]

        run(20)
        calls = -(-steps // PHYSICS_ENVS)
        started = time.perf_counter()
        run(calls)
        return {"steps_per_second": calls * PHYSICS_ENVS / (time.perf_counter() - started)}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
