"""A walker that is pushed at random times."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

from r2vpo.envs.tasks.checks import Range, Step, require_range, require_step_range


class Walker2dGust(Walker2dEnv):
    """Walker2d-v5 with gusts: horizontal pushes on the torso, which are not observed.

    Calm and gust alternate. Their lengths are uniform whole numbers of steps, the size of a push is uniform and
    constant while it lasts, and its direction is forward or backward with equal chance. Reward, observation and
    termination are Gymnasium's.

    An episode succeeds if the walker is still healthy when the time limit cuts it: ``info["is_success"]`` says of
    each step whether it is healthy, and that of the last step counts.

    Args:
        size: Range of the size of a push, in N, ends included.
        calm: Range of the steps (0.008 s each) before a push.
        length: Range of the steps that a push lasts.
        kwargs: Arguments of Gymnasium's ``Walker2dEnv``.

    Raises:
        ConfigError: A range that is not one.
    """

    def __init__(
        self,
        size: Range = (40.0, 120.0),
        calm: tuple[int, int] = (25, 150),
        length: tuple[int, int] = (5, 25),
        **kwargs: Any,
    ) -> None:
        require_range("size", size)
        require_step_range("calm", calm)
        require_step_range("length", length)
        self.size, self.calm, self.length = size, calm, length
        self.steps = 0
        self.gust_start = self.gust_end = 0
        self.gust_force = 0.0
        super().__init__(**kwargs)
        EzPickle.__init__(self, size=size, calm=calm, length=length, **kwargs)
        self._torso = int(self.model.body("torso").id)

    @property
    def is_success(self) -> bool:
        """Whether the walker is healthy."""
        return bool(self.is_healthy)

    @property
    def force(self) -> float:
        """Push on the torso in the coming step, in N, positive forward."""
        return self.gust_force if self.gust_start <= self.steps < self.gust_end else 0.0

    def step(self, action: NDArray[np.float32]) -> Step:
        """Take a step of 0.008 s; see :meth:`gymnasium.Env.step`. The info holds the push as ``force``, in N."""
        force = self.force
        self.data.xfrc_applied[self._torso, 0] = force
        observation, reward, terminated, truncated, info = super().step(action)
        self.steps += 1
        if self.steps == self.gust_end:
            self._draw_gust()
        info = {**info, "force": force, "is_success": self.is_success}
        return observation, float(reward), terminated, truncated, info

    def reset_model(self) -> NDArray[np.float64]:
        """Start as Walker2d-v5 does, with a calm."""
        observation = super().reset_model()
        self.steps = self.gust_end = 0
        self._draw_gust()
        return observation

    def _draw_gust(self) -> None:
        rng = self.np_random
        self.gust_start = self.gust_end + int(rng.integers(*self.calm, endpoint=True))
        self.gust_end = self.gust_start + int(rng.integers(*self.length, endpoint=True))
        self.gust_force = float(rng.uniform(*self.size)) * float(rng.choice([-1.0, 1.0]))
