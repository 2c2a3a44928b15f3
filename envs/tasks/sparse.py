"""Sparse variants of two of Gymnasium's tasks: the reward says only that the goal holds, and costs nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.reacher_v5 import ReacherEnv
from gymnasium.spaces import Box, flatdim
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from r2vpo.envs.tasks.checks import Step, require_positive


class SparseHalfCheetah(HalfCheetahEnv):
    """HalfCheetah-v5 with reward 1 in every step that ends beyond ``threshold``, and 0 in all others.

    The observation is Gymnasium's with the distance from the start (m, positive forward) before it, because the
    reward depends on it. An episode succeeds if it ends beyond the threshold: ``info["is_success"]`` says of each
    step whether the cheetah is there, and that of the last step counts.

    Args:
        threshold: Distance from the start along x, in m.
        kwargs: Arguments of Gymnasium's ``HalfCheetahEnv``.

    Raises:
        ConfigError: The threshold is not a positive number.
    """

    def __init__(self, threshold: float = 5.0, **kwargs: Any) -> None:
        require_positive("threshold", threshold)
        self.threshold = threshold
        self.start = 0.0
        super().__init__(**kwargs)
        EzPickle.__init__(self, threshold=threshold, **kwargs)
        size = flatdim(self.observation_space) + 1
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float64)
        self.observation_structure = {"distance": 1, **self.observation_structure}

    @property
    def distance(self) -> float:
        """Distance from the start along x, in m."""
        return float(self.data.qpos[0]) - self.start

    @property
    def is_success(self) -> bool:
        """Whether the cheetah is beyond the threshold."""
        return self.distance > self.threshold

    def step(self, action: NDArray[np.float32]) -> Step:
        """Take a step of 0.05 s; see :meth:`gymnasium.Env.step`."""
        observation, _, terminated, truncated, info = super().step(action)
        success = self.is_success
        info = {"x_position": info["x_position"], "x_velocity": info["x_velocity"], "is_success": success}
        return observation, float(success), terminated, truncated, info

    def reset_model(self) -> NDArray[np.float64]:
        """Draw a start as HalfCheetah-v5 does and measure from there."""
        super().reset_model()
        self.start = float(self.data.qpos[0])
        return self._get_obs()

    def _get_obs(self) -> NDArray[np.float64]:
        return np.concatenate([[self.distance], super()._get_obs()])


class SparseReacher(ReacherEnv):
    """Reacher-v5 with reward 1 in every step that ends with the fingertip within ``radius`` of the target, else 0.

    The default is where the two balls, of 10 and 9 mm, touch. An episode succeeds if they touch when it ends:
    ``info["is_success"]`` says of each step whether they do, and that of the last step counts. The distance is that
    of the observation.

    Args:
        radius: Distance between the centres of fingertip and target, in m.
        kwargs: Arguments of Gymnasium's ``ReacherEnv``.

    Raises:
        ConfigError: The radius is not a positive number.
    """

    def __init__(self, radius: float = 0.02, **kwargs: Any) -> None:
        require_positive("radius", radius)
        self.radius = radius
        super().__init__(**kwargs)
        EzPickle.__init__(self, radius=radius, **kwargs)

    @property
    def distance(self) -> float:
        """Distance between the centres of fingertip and target, in m."""
        return float(np.linalg.norm(self.get_body_com("fingertip") - self.get_body_com("target")))

    @property
    def is_success(self) -> bool:
        """Whether the fingertip is within the radius."""
        return self.distance < self.radius

    def step(self, action: NDArray[np.float32]) -> Step:
        """Take a step of 0.02 s; see :meth:`gymnasium.Env.step`."""
        observation, _, terminated, truncated, _ = super().step(action)
        success = self.is_success
        return observation, float(success), terminated, truncated, {"is_success": success}
