"""How samples of an unbounded Gaussian become actions of a bounded space."""

from __future__ import annotations

import copy

import gymnasium as gym
import numpy as np

from r2vpo.control.actor import repeated


class ActionBounds:
    """Turns samples of the Gaussian into actions the environment accepts.

    Args:
        space: The environment's action space; bounds may be infinite unless ``kind`` is ``tanh``.
        kind: ``rescale`` takes -1 and 1 for the bounds where both are finite, so that a first standard deviation of 1
            spans any range, and cuts there; ``clip`` cuts at the bounds and changes nothing else; ``tanh`` squashes
            into them.
    """

    def __init__(self, space: gym.spaces.Box, kind: str) -> None:
        self.low, self.high, self.kind = space.low, space.high, kind
        bounded = np.isfinite(space.low) & np.isfinite(space.high)
        low, high = np.where(bounded, space.low, -1.0), np.where(bounded, space.high, 1.0)
        self.middle = (0.5 * low + 0.5 * high).astype(space.dtype)
        self.half_range = (0.5 * high - 0.5 * low).astype(space.dtype)
        if kind == "rescale" and not self.middle.any() and (self.half_range == 1.0).all():
            self.kind = "clip"  # the same, without its cost on every step

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """``[N, A]`` samples to ``[N, A]`` actions."""
        if self.kind == "tanh":
            return self.low + 0.5 * (np.tanh(samples) + 1.0) * (self.high - self.low)
        if self.kind == "rescale":
            samples = self.middle + self.half_range * samples
        return np.minimum(np.maximum(samples, self.low), self.high)

    def for_rows(self, rows: int) -> ActionBounds:
        """The same bounds with every array repeated to ``[rows, A]``, which saves NumPy the broadcasting."""
        result = copy.copy(self)
        for name in ("low", "high", "middle", "half_range"):
            setattr(result, name, repeated(getattr(self, name), rows))
        return result
