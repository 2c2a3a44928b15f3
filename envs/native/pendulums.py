"""InvertedPendulum and InvertedDoublePendulum: stay upright.

Source: ``inverted_pendulum_v5.py``, ``inverted_double_pendulum_v5.py`` in ``gymnasium.envs.mujoco``.
"""

from __future__ import annotations

import numpy as np

from r2vpo.envs.native.task import Outcome, Task


class InvertedPendulum(Task):
    """A reward of 1 for each step that ends within 0.2 rad of the vertical."""

    def after(self, before: None, actions: np.ndarray) -> Outcome:
        """See :class:`Task`."""
        observations = np.concatenate((self.read("qpos"), self.read("qvel")), axis=1)
        terminated = ~np.isfinite(observations).all(axis=1) | (np.abs(observations[:, 1]) > 0.2)
        return observations, (~terminated).astype(np.float64), terminated


class InvertedDoublePendulum(Task):
    """A bonus for each step that ends with the tip above 1, minus the tip's distance and the links' speeds."""

    def after(self, before: None, actions: np.ndarray) -> Outcome:
        """See :class:`Task`."""
        qpos, qvel, tip = self.read("qpos"), self.read("qvel"), self.read("site_xpos")[:, 0]
        x, y = tip[:, 0], tip[:, 2]
        terminated = y <= 1
        distance_penalty = 0.01 * _squares(x) + _squares(y - 2)
        speed_penalty = 1e-3 * _squares(qvel[:, 1]) + 5e-3 * _squares(qvel[:, 2])
        rewards = self.env._healthy_reward * (~terminated).astype(np.float64) - distance_penalty - speed_penalty
        constraint = np.clip(self.read("qfrc_constraint"), -10, 10)[:, :1]
        angles = qpos[:, 1:]
        observed = (qpos[:, :1], np.sin(angles), np.cos(angles), np.clip(qvel, -10, 10), constraint)
        return np.concatenate(observed, axis=1), rewards, terminated


def _squares(values: np.ndarray) -> np.ndarray:
    """Squares of ``[N]`` as Gymnasium gets them: of one scalar at a time.

    NumPy squares an array with a product and a scalar with C's ``pow``, and one value in a thousand then differs in
    its last bit.
    """
    return np.array([value**2 for value in values.tolist()])
