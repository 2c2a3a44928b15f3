"""Registering our tasks with Gymnasium."""

from __future__ import annotations

import gymnasium as gym

_HERE = "r2vpo.envs.tasks."
_TASKS = {
    "r2vpo/SparseHalfCheetah-v0": (_HERE + "sparse:SparseHalfCheetah", 1000),
    "r2vpo/SparseReacher-v0": (_HERE + "sparse:SparseReacher", 50),
    "r2vpo/SparseCartPoleSwingUp-v0": (_HERE + "cartpole:SparseCartPoleSwingUp", 500),
    "r2vpo/HopperShift-v0": (_HERE + "shift:HopperShift", 1000),
    "r2vpo/Walker2dGust-v0": (_HERE + "gust:Walker2dGust", 1000),
}
"""Id: where its class is, and its time limit in steps."""


def register_tasks() -> None:
    """Make our ids known to Gymnasium; those that are known already stay as they are."""
    for env_id, (entry_point, steps) in _TASKS.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point, max_episode_steps=steps)
