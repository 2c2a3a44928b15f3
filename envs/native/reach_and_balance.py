"""Reacher and Pusher, which bring a fingertip or an object to a goal and never terminate; and the two pendulums.

Source: ``reacher_v5.py``, ``pusher_v5.py``, ``inverted_pendulum_v5.py``, ``inverted_double_pendulum_v5.py`` in
``gymnasium.envs.mujoco``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from r2vpo.envs.native.simulations import Outcome, Simulations, Task, never, squared_sums


class Reacher(Task):
    """Distance of the fingertip from the target, and effort."""

    def __init__(self, env: Any, simulations: Simulations) -> None:
        super().__init__(env, simulations)
        self._bodies: dict[str, int] = {}

    def after(self, before: None, actions: np.ndarray) -> Outcome:
        """See :class:`Task`."""
        qpos, qvel, positions = self.read("qpos"), self.read("qvel"), self.read("xpos")
        offset = positions[:, self._body("fingertip")] - positions[:, self._body("target")]
        reward_dist = -_norms(offset) * self.env._reward_dist_weight
        rewards = reward_dist + -squared_sums(actions) * self.env._reward_control_weight
        theta = qpos[:, :2]
        observed = (np.cos(theta), np.sin(theta), qpos[:, 2:], qvel[:, :2], offset[:, :2])
        return np.concatenate(observed, axis=1), rewards, never(len(qpos))

    def _body(self, name: str) -> int:
        if name not in self._bodies:
            self._bodies[name] = self.simulations.model.body(name).id
        return self._bodies[name]


class Pusher(Reacher):
    """Distance of the object from the goal and from the arm, and effort."""

    def after(self, before: None, actions: np.ndarray) -> Outcome:
        """See :class:`Task`."""
        positions = self.read("xpos")
        tips, target, goal = (positions[:, self._body(name)] for name in ("tips_arm", "object", "goal"))
        reward_near = -_norms(target - tips) * self.env._reward_near_weight
        reward_dist = -_norms(target - goal) * self.env._reward_dist_weight
        reward_ctrl = -squared_sums(actions) * self.env._reward_control_weight
        observed = (self.read("qpos")[:, :7], self.read("qvel")[:, :7], tips, target, goal)
        return np.concatenate(observed, axis=1), reward_dist + reward_ctrl + reward_near, never(len(actions))


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


def _norms(vectors: np.ndarray) -> np.ndarray:
    """Lengths of ``[N, 3]``. ``numpy.linalg.norm`` of one vector is a BLAS dot product; of many, with an axis, not."""
    return np.sqrt(np.matmul(vectors[:, None, :], vectors[:, :, None])[:, 0, 0])


def _squares(values: np.ndarray) -> np.ndarray:
    """Squares of ``[N]`` as Gymnasium gets them: of one scalar at a time.

    NumPy squares an array with a product and a scalar with C's ``pow``, and one value in a thousand then differs in
    its last bit.
    """
    return np.array([value**2 for value in values.tolist()])
