"""From stored rollouts to training samples: values, advantages and value targets under the current policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from r2vpo.advantages import (
    Array,
    generalized_advantages,
    successor_values,
    truncated_importance_weights,
    value_targets,
)
from r2vpo.control.collector import Rollout
from r2vpo.control.gaussian import GaussianPolicy, ValueFunction
from r2vpo.control.normalization import RewardScaler

ADVANTAGE_EPS = 1e-8
_PER_STEP = ("observations", "actions", "old_log_prob", "rewards", "terminated", "done")


@dataclass
class Estimator:
    """Advantages and value targets of stored rollouts under the current networks and statistics."""

    policy: GaussianPolicy
    value_function: ValueFunction
    reward_scaler: RewardScaler
    gamma: float
    gae_lambda: float
    trace_cap: float

    @torch.no_grad()
    def estimate(self, rollouts: Sequence[Rollout], stale: Sequence[bool]) -> dict[str, Tensor]:
        """Samples of R rollouts of T steps in N environments, flattened to ``[R * T * N, ...]``.

        They are treated as R times as many environments: a pass over all costs little more than over one.

        Args:
            rollouts: As collected, all of one size.
            stale: Whether an older policy than the current one acted, for each; its traces are then weighted by the
                truncated ratios (see :func:`r2vpo.advantages.generalized_advantages`).

        Returns:
            ``observations``, ``actions``, ``old_log_prob``, ``advantage`` (not normalised), ``reward_sum`` (the part of
            it that would be left if the value function were 0) and ``value_target``.
        """
        laid = {name: torch.stack([rollout[name] for rollout in rollouts]) for name in _PER_STEP}
        samples = {name: laid[name].flatten(0, 2) for name in ("observations", "actions", "old_log_prob")}
        shape = laid["done"].shape  # [R, T, N]
        done, terminated = (_time_first(laid[name]) for name in ("done", "terminated"))
        values = _time_first(self.value_function(samples["observations"]).view(shape)).astype(np.float64)
        weights = self._trace_weights(samples, shape, stale)
        next_values = self._successor_values(rollouts, values, laid["done"])
        rewards = _time_first(self.reward_scaler(laid["rewards"].numpy()))
        episodes = {"terminated": terminated, "done": done}
        traces = {"gamma": self.gamma, "gae_lambda": self.gae_lambda, "trace_weights": weights}
        advantages = generalized_advantages(rewards, values, next_values, **episodes, **traces)
        nothing = np.zeros_like(values)
        estimates = {
            "advantage": advantages,
            "reward_sum": generalized_advantages(rewards, nothing, nothing, **episodes, **traces),
            "value_target": value_targets(values, advantages, weights),
        }
        return samples | {name: torch.from_numpy(_rollout_first(x)).float() for name, x in estimates.items()}

    def _trace_weights(self, samples: dict[str, Tensor], shape: torch.Size, stale: Sequence[bool]) -> Array:
        """``[T, R, N]``, 1 wherever the current policy acted itself."""
        if not any(stale):
            return np.ones(shape).swapaxes(0, 1)
        log_ratio = (self.policy.log_prob(samples) - samples["old_log_prob"]).double().view(shape)
        log_ratio[~torch.tensor(stale)] = 0.0
        return truncated_importance_weights(_time_first(log_ratio), self.trace_cap)

    def _successor_values(self, rollouts: Sequence[Rollout], values: Array, done: Tensor) -> Array:
        last = self.value_function(torch.stack([rollout["last_observations"] for rollout in rollouts]).flatten(0, 1))
        finals = torch.zeros(done.shape)
        finals[done] = self.value_function(torch.cat([rollout["final_observations"] for rollout in rollouts]))
        ended = _time_first(done)
        last_values = last.view(len(rollouts), -1).double().numpy()
        return successor_values(values, last_values, ended, _time_first(finals.double())[ended])


def _time_first(values: Tensor | Array) -> Array:
    """``[R, T, N]`` to ``[T, R, N]``."""
    return np.asarray(values).swapaxes(0, 1)


def _rollout_first(values: Array) -> Array:
    """``[T, R, N]`` to ``[R * T * N]``."""
    return values.swapaxes(0, 1).flatten()


def join_samples(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Lay the samples of several rollouts end to end."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def standardized(advantage: Tensor) -> Tensor:
    """Advantages ``[..., n]`` with mean 0 and standard deviation 1 over the last axis."""
    centred = advantage - advantage.mean(-1, keepdim=True)
    return centred / (advantage.std(-1, keepdim=True) + ADVANTAGE_EPS)
