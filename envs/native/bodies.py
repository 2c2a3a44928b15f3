"""Ant, Humanoid and HumanoidStandup, which observe the contact forces on every body.

Source: ``ant_v5.py``, ``humanoid_v5.py``, ``humanoidstandup_v5.py`` in ``gymnasium.envs.mujoco``. Their rewards compare
positions of bodies, which MuJoCo leaves where they were before the last substep ended; reading them from the same
``MjData`` reproduces that.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from r2vpo.envs.native.simulations import (
    Outcome,
    Simulations,
    Task,
    all_finite,
    clipped,
    finite_rows,
    flat,
    inside,
    never,
    squared_sums,
)


class Ant(Task):
    """Forward speed of the torso, a bonus while it is off the ground, minus effort and contact forces."""

    reads_contact_forces = True
    required = (
        "_exclude_current_positions_from_observation",
        "_include_cfrc_ext_in_observation",
        "_terminate_when_unhealthy",
    )

    def __init__(self, env: Any, simulations: Simulations) -> None:
        super().__init__(env, simulations)
        self._torso = simulations.model.body(env._main_body).id

    def before(self) -> np.ndarray:
        """Position of the torso along x, ``[N]``."""
        return self.torso_x().copy()

    def torso_x(self) -> np.ndarray:
        """``[N]``, a view."""
        return self.read("xpos")[:, self._torso, 0]

    def after(self, before: np.ndarray, actions: np.ndarray) -> Outcome:
        """See :class:`Task`."""
        qpos, qvel = self.read("qpos"), self.read("qvel")
        low, high = self.env._healthy_z_range
        healthy = (low <= qpos[:, 2]) & (qpos[:, 2] <= high)
        if not (all_finite(qpos) and all_finite(qvel)):
            healthy &= finite_rows(qpos) & finite_rows(qvel)
        forces = clipped(self.read("cfrc_ext"), *self.env._contact_force_range)
        forward_reward = (self.torso_x() - before) / self.dt * self.env._forward_reward_weight
        control_cost = self.env._ctrl_cost_weight * squared_sums(actions)
        contact_cost = self.env._contact_cost_weight * squared_sums(forces)
        rewards = forward_reward + healthy * self.env._healthy_reward - (control_cost + contact_cost)
        return np.concatenate((qpos[:, 2:], qvel, flat(forces[:, 1:])), axis=1), rewards, ~healthy


class HumanoidBase(Task):
    """What Humanoid and HumanoidStandup observe and pay for."""

    reads_contact_forces = True
    required: ClassVar[tuple[str, ...]] = (
        "_exclude_current_positions_from_observation",
        "_include_cinert_in_observation",
        "_include_cvel_in_observation",
        "_include_qfrc_actuator_in_observation",
        "_include_cfrc_ext_in_observation",
    )

    def observe(self) -> np.ndarray:
        """``[N, D]``."""
        inertia, velocity, forces = (flat(self.read(name)[:, 1:]) for name in ("cinert", "cvel", "cfrc_ext"))
        state = self.read("qpos")[:, 2:], self.read("qvel")
        return np.concatenate((*state, inertia, velocity, self.read("qfrc_actuator")[:, 6:], forces), axis=1)

    def control_cost(self) -> np.ndarray:
        """``[N]``. From the controls in MuJoCo, which are float64 whatever the actions were."""
        return self.env._ctrl_cost_weight * squared_sums(self.read("ctrl"))

    def force_cost(self, weight: float, limits: tuple[float, float]) -> np.ndarray:
        """``[N]``."""
        return np.clip(weight * squared_sums(self.read("cfrc_ext")), *limits)


class Humanoid(HumanoidBase):
    """Forward speed of the centre of mass, a bonus while standing, minus effort and contact forces."""

    required = (*HumanoidBase.required, "_terminate_when_unhealthy")

    def __init__(self, env: Any, simulations: Simulations) -> None:
        super().__init__(env, simulations)
        self._masses = simulations.model.body_mass[:, None].copy()
        self._total_mass = np.sum(self._masses)

    def before(self) -> np.ndarray:
        """Position of the centre of mass along x, ``[N]``."""
        return (np.add.reduce(self._masses * self.read("xipos"), axis=1) / self._total_mass)[:, 0]

    def after(self, before: np.ndarray, actions: np.ndarray) -> Outcome:
        """See :class:`Task`."""
        healthy = inside(self.read("qpos")[:, 2], self.env._healthy_z_range)
        forward_reward = self.env._forward_reward_weight * ((self.before() - before) / self.dt)
        costs = self.control_cost() + self.force_cost(self.env._contact_cost_weight, self.env._contact_cost_range)
        rewards = forward_reward + healthy * self.env._healthy_reward - costs
        return self.observe(), rewards, ~healthy


class HumanoidStandup(HumanoidBase):
    """Height over the length of a substep, minus effort and contact forces; never terminates."""

    def __init__(self, env: Any, simulations: Simulations) -> None:
        super().__init__(env, simulations)
        self._timestep = simulations.model.opt.timestep

    def after(self, before: None, actions: np.ndarray) -> Outcome:
        """See :class:`Task`."""
        height_reward = self.read("qpos")[:, 2] / self._timestep
        impact_cost = self.force_cost(self.env._impact_cost_weight, self.env._impact_cost_range)
        # uph_cost_weight exists in Gymnasium and has no effect there either.
        return self.observe(), height_reward - self.control_cost() - impact_cost + 1, never(len(actions))
