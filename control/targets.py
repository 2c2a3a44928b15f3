"""From stored rollouts to training samples: values, advantages and value targets under the current policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from r2vpo.advantages import (
    generalized_advantages,
    successor_values,
    truncated_importance_weights,
    value_targets,
)
from r2vpo.control.collector import Rollout
from r2vpo.control.gaussian import GaussianPolicy, ValueFunction
from r2vpo.control.normalization import RewardScaler

ADVANTAGE_EPS = 1e-8


@dataclass
class Estimator:
    """Advantages and value targets of one rollout under the current networks and statistics."""

    policy: GaussianPolicy
    value_function: ValueFunction
    reward_scaler: RewardScaler
    gamma: float
    gae_lambda: float
    trace_cap: float

    @torch.no_grad()
    def estimate(self, rollout: Rollout, stale: bool) -> dict[str, Tensor]:
        """Samples of one rollout, flattened to ``[T * N, ...]``.

        Args:
            rollout: As collected.
            stale: Whether an older policy than the current one acted; its traces are then weighted by the truncated
                ratios (see :func:`r2vpo.advantages.generalized_advantages`).

        Returns:
            ``observations``, ``actions``, ``old_log_prob``, ``advantage`` (not normalised), ``reward_sum`` (the part of
            it that would be left if the value function were 0) and ``value_target``.
        """
        done = rollout["done"].numpy()
        observations, actions = rollout["observations"].flatten(0, 1), rollout["actions"].flatten(0, 1)
        values = self.value_function(observations).view(done.shape).double().numpy()
        log_ratio = np.zeros(done.shape)
        if stale:
            log_prob = self.policy.log_prob({"observations": observations, "actions": actions}).view(done.shape)
            log_ratio = (log_prob - rollout["old_log_prob"]).double().numpy()
        weights = truncated_importance_weights(log_ratio, self.trace_cap)
        next_values = successor_values(
            values,
            self.value_function(rollout["last_observations"]).double().numpy(),
            done,
            self.value_function(rollout["final_observations"]).double().numpy(),
        )
        rewards = self.reward_scaler(rollout["rewards"].numpy())
        episodes = {"terminated": rollout["terminated"].numpy(), "done": done}
        traces = {"gamma": self.gamma, "gae_lambda": self.gae_lambda, "trace_weights": weights}
        advantages = generalized_advantages(rewards, values, next_values, **episodes, **traces)
        nothing = np.zeros_like(values)
        reward_sums = generalized_advantages(rewards, nothing, nothing, **episodes, **traces)
        targets = value_targets(values, advantages, weights)
        return {
            "observations": observations,
            "actions": actions,
            "old_log_prob": rollout["old_log_prob"].flatten(),
            "advantage": torch.from_numpy(advantages).float().flatten(),
            "reward_sum": torch.from_numpy(reward_sums).float().flatten(),
            "value_target": torch.from_numpy(targets).float().flatten(),
        }


def join_samples(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Lay the samples of several rollouts end to end."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def standardized(advantage: Tensor) -> Tensor:
    """Advantages ``[..., n]`` with mean 0 and standard deviation 1 over the last axis."""
    centred = advantage - advantage.mean(-1, keepdim=True)
    return centred / (advantage.std(-1, keepdim=True) + ADVANTAGE_EPS)
