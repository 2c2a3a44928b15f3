"""HalfCheetah, Hopper, Walker2d and Swimmer: forward speed minus effort, in the plane.

Source: ``half_cheetah_v5.py``, ``hopper_v5.py``, ``walker2d_v5.py``, ``swimmer_v5.py`` in ``gymnasium.envs.mujoco``.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from r2vpo.envs.native.simulations import Outcome, Simulations, Task, clipped, never, rows_inside, squared_sums, weak


class Runner(Task):
    """Shared by the four: the reward is the speed of the first coordinate minus the cost of control."""

    required: ClassVar[tuple[str, ...]] = ("_exclude_current_positions_from_observation",)

    def __init__(self, env: Any, simulations: Simulations) -> None:
        super().__init__(env, simulations)
        self._dt, self._forward_weight = np.array(self.dt), np.array(float(env._forward_reward_weight))
        self._plain = env._forward_reward_weight == 1.0

    def before(self) -> np.ndarray:
        """First coordinate, ``[N]``."""
        return self.read("qpos")[:, 0].copy()

    def forward_reward(self, x_before: np.ndarray, x_after: np.ndarray) -> np.ndarray:
        """``[N]``."""
        speed = (x_after - x_before) / self._dt
        return speed if self._plain else speed * self._forward_weight

    def control_cost(self, actions: np.ndarray) -> np.ndarray:
        """``[N]``."""
        return squared_sums(actions) * weak(self.env._ctrl_cost_weight, actions.dtype)


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

    def __init__(self, env: Any, simulations: Simulations) -> None:
        super().__init__(env, simulations)
        self._healthy_reward = np.array(float(env._healthy_reward))
        self._low, self._high = (np.array([limits]) for limits in zip(*self.limits(), strict=True))

    def limits(self) -> list[tuple[float, float]]:
        """Open intervals in which the state after its first coordinate counts as healthy; what follows them is free."""
        return [self.env._healthy_z_range, self.env._healthy_angle_range]

    def after(self, before: np.ndarray, actions: np.ndarray) -> Outcome:
        """See :class:`Task`."""
        qpos, qvel = self.read("qpos"), self.read("qvel")
        state = np.concatenate((qpos[:, 1:], qvel), axis=1)
        healthy = rows_inside(state[:, : self._low.shape[1]], self._low, self._high)
        rewards = self.forward_reward(before, qpos[:, 0]) + healthy * self._healthy_reward
        rewards = rewards - self.control_cost(actions)
        velocities = state[:, qpos.shape[1] - 1 :]
        velocities[...] = clipped(velocities, -10.0, 10.0)
        return state, rewards, ~healthy


class Hopper(Walker2d):
    """As Walker2d, with limits on the rest of the state as well."""

    def limits(self) -> list[tuple[float, float]]:
        """The angle has two intervals, its own and that of the rest, and has to lie in both."""
        height, angle = super().limits()
        rest = self.env._healthy_state_range
        both = max(angle[0], rest[0]), min(angle[1], rest[1])
        model = self.simulations.model
        return [height, both] + [rest] * (model.nq + model.nv - 3)
