"""Running statistics of observations and of returns. Updated between iterations only (see `Collector`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from r2vpo.advantages import discounted_sums

_EPS = 1e-8

FAR = 1024.0
"""Observations that begin farther from 0 than this are counted from where they begin: float32 has steps of 1e-4 there,
and of 128 at the time of day in seconds."""

FARTHEST = 1e30
"""But not from here on: the difference of two such numbers may be more than float32 holds."""


class ObservationNormalizer(nn.Module):
    """Standardises observations; a module, so that it lives and is saved inside the policy.

    Statistics are combined by the parallel form of Welford's update in float64 and change only in :meth:`update`. What
    comes in is float32 and counts from ``origin``, which is 0 except where observations lie far from it.

    Args:
        size: Observation dimension D.
        enabled: When False, observations pass unchanged.
        bound: Standardised values are clipped to plus and minus this.
    """

    origin: Tensor
    """``[D]``, float64; the same for all of a training."""
    count: Tensor
    mean: Tensor
    variance: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, size: int, enabled: bool = True, bound: float = 10.0) -> None:
        super().__init__()
        self.enabled = enabled
        self.bound = bound
        self.register_buffer("origin", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(size, dtype=torch.float64))
        self.register_buffer("shift", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def begin(self, observations: np.ndarray) -> None:
        """Choose the origin from the first observations ``[N, D]`` of a training; later ones change nothing."""
        if self.enabled and not self.count and not self.origin.any():
            middle = observations.mean(axis=0)
            far = (np.abs(middle) > FAR) & (np.abs(middle) < FARTHEST)
            self.origin.copy_(torch.from_numpy(np.where(far, middle, 0.0)))

    def relative(self, observations: np.ndarray) -> np.ndarray:
        """Raw observations ``[..., D]``, counted from the origin before they become float32."""
        return (observations - self.origin.numpy()).astype(np.float32)

    def forward(self, observations: Tensor) -> Tensor:
        """``[..., D]`` counted from the origin to ``[..., D]`` standardised."""
        if not self.enabled:
            return observations
        return ((observations - self.shift) * self.scale).clamp(-self.bound, self.bound)

    def update(self, observations: Tensor) -> None:
        """Take a batch ``[n, D]`` of observations, counted from the origin, into the statistics."""
        if not self.enabled:
            return
        batch = observations.double()
        n, mean, variance = len(batch), batch.mean(0), batch.var(0, unbiased=False)
        total = self.count + n
        offset = mean - self.mean
        self.variance.copy_(
            (self.variance * self.count + variance * n + offset.square() * self.count * n / total) / total
        )
        self.mean.add_(offset * n / total)
        self.count.copy_(total)
        self.shift.copy_(self.mean)
        self.scale.copy_((self.variance + _EPS).rsqrt())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        state_dict.setdefault(prefix + "origin", torch.zeros_like(self.origin))  # models from before there was one
        super()._load_from_state_dict(state_dict, prefix, *others)


class RewardScaler:
    """Divides rewards by the running standard deviation of the discounted return, without shifting them.

    Args:
        num_envs: N, environments whose returns are followed.
        gamma: Discount of the returns.
        enabled: When False, rewards pass unchanged.
        bound: Scaled rewards are clipped to plus and minus this.
    """

    def __init__(self, num_envs: int, gamma: float, enabled: bool = True, bound: float = 10.0) -> None:
        self.gamma = gamma
        self.enabled = enabled
        self.bound = bound
        self.returns = np.zeros(num_envs)
        self.count, self.mean, self.variance = 0.0, 0.0, 1.0

    def __call__(self, rewards: np.ndarray) -> np.ndarray:
        """Raw rewards of any shape to scaled ones."""
        if not self.enabled:
            return rewards
        return np.clip(rewards / np.sqrt(self.variance + _EPS), -self.bound, self.bound)

    def update(self, rewards: np.ndarray, done: np.ndarray) -> None:
        """Follow the returns through one rollout, both ``[T, N]``, and take them into the statistics."""
        if not self.enabled:
            return
        # The return goes on from the step before, unless an episode ended there.
        decay = np.full_like(rewards, self.gamma)
        decay[1:][done[:-1]] = 0.0
        gained = rewards.copy()
        gained[0] += self.gamma * self.returns
        returns = discounted_sums(gained[::-1], decay[::-1])[::-1]
        self.returns = np.where(done[-1], 0.0, returns[-1])
        n, mean, variance = returns.size, returns.mean(), returns.var()
        total = self.count + n
        offset = mean - self.mean
        self.variance = (self.variance * self.count + variance * n + offset**2 * self.count * n / total) / total
        self.mean += offset * n / total
        self.count = total

    def state_dict(self) -> dict[str, object]:
        """Statistics and the running returns."""
        return {"returns": self.returns, "count": self.count, "mean": self.mean, "variance": self.variance}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for name, value in state.items():
            if name in ("returns", "count", "mean", "variance"):
                setattr(self, name, value)
