"""A hopper whose mass, friction and gravity are other ones in every episode."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from r2vpo.envs.tasks.checks import Range, Step, require_range


class HopperShift(HopperEnv):
    """Hopper-v5 with three factors drawn at each reset, uniformly and independently, that are not observed.

    ``mass`` scales the masses and inertias of all bodies, ``friction`` the sliding friction of all geoms, ``gravity``
    the gravity; always from their nominal values. ``env.factors`` and the info of ``reset`` hold the draws. Reward,
    observation and termination are Gymnasium's.

    An episode succeeds if the hopper is still healthy when the time limit cuts it: ``info["is_success"]`` says of
    each step whether it is healthy, and that of the last step counts.

    Args:
        mass: Range of the factor, ends included.
        friction: Range of the factor.
        gravity: Range of the factor.
        kwargs: Arguments of Gymnasium's ``HopperEnv``.

    Raises:
        ConfigError: A range that is not one, or reaches 0.
    """

    def __init__(
        self, mass: Range = (0.7, 1.3), friction: Range = (0.5, 1.5), gravity: Range = (0.8, 1.2), **kwargs: Any
    ) -> None:
        self.ranges = {"mass": mass, "friction": friction, "gravity": gravity}
        for field, value in self.ranges.items():
            require_range(field, value)
        self.factors = dict.fromkeys(self.ranges, 1.0)
        super().__init__(**kwargs)
        EzPickle.__init__(self, **self.ranges, **kwargs)
        self._nominal = {
            "body_mass": self.model.body_mass.copy(),
            "body_inertia": self.model.body_inertia.copy(),
            "sliding_friction": self.model.geom_friction[:, 0].copy(),
            "gravity": self.model.opt.gravity.copy(),
        }

    @property
    def is_success(self) -> bool:
        """Whether the hopper is healthy."""
        return bool(self.is_healthy)

    def step(self, action: NDArray[np.float32]) -> Step:
        """Take a step of 0.008 s; see :meth:`gymnasium.Env.step`."""
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, float(reward), terminated, truncated, {**info, "is_success": self.is_success}

    def reset_model(self) -> NDArray[np.float64]:
        """Draw new factors, change the model, then start as Hopper-v5 does."""
        self.factors = {name: float(self.np_random.uniform(*ends)) for name, ends in self.ranges.items()}
        self._change_model()
        return super().reset_model()

    def restored(self) -> None:
        """Change the model as the factors of a restored state say; see :mod:`r2vpo.envs.state`."""
        self._change_model()

    def _get_reset_info(self) -> dict[str, float]:
        return {**super()._get_reset_info(), **{f"{name}_factor": value for name, value in self.factors.items()}}

    def _change_model(self) -> None:
        model, nominal, factors = self.model, self._nominal, self.factors
        model.body_mass[:] = nominal["body_mass"] * factors["mass"]
        model.body_inertia[:] = nominal["body_inertia"] * factors["mass"]
        model.geom_friction[:, 0] = nominal["sliding_friction"] * factors["friction"]
        model.opt.gravity[:] = nominal["gravity"] * factors["gravity"]
        # What MuJoCo derives from masses; it writes into the data that it is given, so not into ours.
        mujoco.mj_setConst(model, mujoco.MjData(model))
