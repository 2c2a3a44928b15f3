"""HalfCheetah, Hopper, Walker2d and Swimmer: forward speed minus effort, in the plane.

Source: ``half_cheetah_v5.py``, ``hopper_v5.py``, ``walker2d_v5.py``, ``swimmer_v5.py`` in ``gymnasium.envs.mujoco``.
"""

from __future__ import annotations

import numpy as np

from r2vpo.envs.native.task import Outcome, Task, inside, never, squared_sums


class Runner(Task):
    """Shared by the four: the reward is the speed of the first coordinate minus the cost of control."""

    required = ("_exclude_current_positions_from_observation",)

    def before(self) -> np.ndarray:
        """First coordinate, ``[N]``."""
        return self.read("qpos")[:, 0]

    def forward_reward(self, x_before: np.ndarray, x_after: np.ndarray) -> np.ndarray:
        """``[N]``."""
        return self.env._forward_reward_weight * ((x_after - x_before) / self.env.dt)

    def control_cost(self, actions: np.ndarray) -> np.ndarray:
        """``[N]``."""
        return self.env._ctrl_cost_weight * squared_sums(actions)


class HalfCheetah(Runner):
    """Never terminates; observes all positions but the first, and velocities."""

    hidden = 1
    """Leading positions that are not observed."""

    def after(self, before: np.ndarray, actions: np.ndarray) -> Outcome:
        """See :class:`Task`."""
        qpos, qvel = self.read("qpos"), self.read("qvel")
        rewards = self.forward_reward(before, qpos[:, 0]) - self.control_cost(actions)
        return np.concatenate((qpos[:, self.hidden :], qvel), axis=1), rewards, never(len(qpos))


class Swimmer(HalfCheetah):
    """As HalfCheetah, with two positions hidden."""

    hidden = 2


class Walker2d(Runner):
    """Terminates when it falls; each step on its feet is worth a bonus; observed velocities are clipped."""

    required = (*Runner.required, "_terminate_when_unhealthy")

    def healthy(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Upright and high enough, ``[N]``."""
        return inside(qpos[:, 1], self.env._healthy_z_range) & inside(qpos[:, 2], self.env._healthy_angle_range)

    def after(self, before: np.ndarray, actions: np.ndarray) -> Outcome:
        """See :class:`Task`."""
        qpos, qvel = self.read("qpos"), self.read("qvel")
        healthy = self.healthy(qpos, qvel)
        rewards = self.forward_reward(before, qpos[:, 0]) + healthy * self.env._healthy_reward
        rewards = rewards - self.control_cost(actions)
        return np.concatenate((qpos[:, 1:], np.clip(qvel, -10, 10)), axis=1), rewards, ~healthy


class Hopper(Walker2d):
    """As Walker2d, with limits on the rest of the state as well."""

    def healthy(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """``[N]``."""
        rest = np.concatenate((qpos[:, 2:], qvel), axis=1)
        return super().healthy(qpos, qvel) & inside(rest, self.env._healthy_state_range).all(axis=1)
