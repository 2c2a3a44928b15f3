"""The learning half of an iteration: a rollout in, its samples estimated and replayed, a changed policy out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from r2vpo.advantages import generalized_advantages, offpolicy_estimates, standardised
from r2vpo.compiled_update import CompiledUpdater, flatten_parameters
from r2vpo.control.collector import Rollout
from r2vpo.control.config import ControlConfig
from r2vpo.control.normalization import ObservationNormalizer, RewardScaler
from r2vpo.control.policy import ActorCritic, GaussianPolicy, ValueFunction
from r2vpo.dual import DualController, signal_share
from r2vpo.errors import TrainingDiverged
from r2vpo.objectives import make_objective
from r2vpo.replay import ReplayBuffer, proximal_weights


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
                ratios (see :func:`r2vpo.advantages.offpolicy_estimates`).

        Returns:
            ``observations``, ``actions``, ``old_log_prob``, ``advantage`` (not normalised), ``reward_sum`` (the part of
            it that would be left if the value function were 0) and ``value_target``.
        """
        terminated, done = rollout["terminated"].numpy(), rollout["done"].numpy()
        observations, actions = rollout["observations"].flatten(0, 1), rollout["actions"].flatten(0, 1)
        values = self._values(observations).reshape(done.shape)
        rewards = self.reward_scaler(rollout["rewards"].numpy())
        log_ratio = np.zeros(done.shape)
        if stale:
            log_prob = self.policy.log_prob({"observations": observations, "actions": actions}).view(done.shape)
            log_ratio = (log_prob - rollout["old_log_prob"]).double().numpy()
        traces = {"gamma": self.gamma, "gae_lambda": self.gae_lambda}
        last_values, final_values = (self._values(rollout[f"{which}_observations"]) for which in ("last", "final"))
        advantages, targets, weights = offpolicy_estimates(
            rewards, values, last_values, final_values, terminated, done, log_ratio, **traces, cap=self.trace_cap
        )
        nothing = np.zeros_like(values)
        reward_sums = generalized_advantages(
            rewards, nothing, nothing, terminated, done, **traces, trace_weights=weights
        )
        estimates = {"advantage": advantages, "reward_sum": reward_sums, "value_target": targets}
        return {
            "observations": observations,
            "actions": actions,
            "old_log_prob": rollout["old_log_prob"].flatten(),
            **{name: torch.from_numpy(array).float().flatten() for name, array in estimates.items()},
        }

    def _values(self, observations: Tensor) -> NDArray[np.float64]:
        return self.value_function(observations).double().numpy()


def join_samples(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Lay the samples of several rollouts end to end."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def equal_parts(total: int, parts: int) -> list[int]:
    """A number of steps cut into so many parts, or as many as there are steps, that differ by one at the most."""
    parts = min(parts, total)
    return [total * (i + 1) // parts - total * i // parts for i in range(parts)]


class Learner:
    """Networks, optimizer, dual variable and replay buffer, and the update that ties them together.

    Args:
        observation_size: D.
        action_size: A.
        config: Settings of the run.
        generator: Source of the initial weights and of the minibatch order.
    """

    def __init__(
        self, observation_size: int, action_size: int, config: ControlConfig, generator: torch.Generator
    ) -> None:
        self.config = config
        self.generator = generator
        normalizer = ObservationNormalizer(observation_size, config.normalize_observations)
        log_std = (config.log_std_init, config.log_std_min, config.log_std_max)
        self.policy = GaussianPolicy(normalizer, action_size, config.hidden_sizes, log_std, generator)
        self.value_function = ValueFunction(normalizer, config.hidden_sizes, generator)
        self.reward_scaler = RewardScaler(config.num_envs, config.gamma, config.normalize_rewards)
        self.buffer = ReplayBuffer(config.stored_iterations)
        traces = config.gamma, config.gae_lambda, config.trace_cap
        self.estimator = Estimator(self.policy, self.value_function, self.reward_scaler, *traces)
        module = ActorCritic(self.policy, self.value_function, config.value_coef, config.entropy_coef)
        parameters = flatten_parameters(module.parameters())
        # PPO's usual 1e-5 holds the critic back: clipped together with the actor's, its gradients are not much larger.
        self.optimizer = torch.optim.Adam([parameters], lr=config.learning_rate, eps=1e-8, fused=True)
        self.updater = CompiledUpdater(
            make_objective(config.objective, **config.objective_kwargs),
            DualController(config.lam, config.delta_for(action_size), config.eta, config.dual),
            self.optimizer,
            module,
            parameters,
            config.max_grad_norm,
            # Beyond its bounds the clamp in the policy would stop the parameter's gradient for good.
            {"policy.log_std": (config.log_std_min, config.log_std_max)},
        )
        self._reward_floor = config.reward_floor_in_use
        self._most_steps = config.gradient_steps
        utd = 1.0 if config.algo == "on-policy" else config.utd
        self._first_steps = max(1, round(self._most_steps / utd))

    def update(self, rollout: Rollout, learning_rate: float, delta_share: float = 1.0) -> dict[str, Any]:
        """Store a rollout, improve the policy on the buffer, then let the statistics see the new observations.

        Args:
            rollout: Fresh from the current policy.
            learning_rate: Of every gradient step in this update.
            delta_share: What the schedule leaves of delta, above 0 and at most 1.

        Returns:
            Diagnostics of :meth:`r2vpo.update.PolicyUpdater.summary`, ``entropy`` in nats, ``advantage_std`` before
            advantages are standardised and ``reward_std`` of the rewards' part of them, both in units of the scaled
            return, and ``delta``, the target of this update.

        Raises:
            TrainingDiverged: Not one gradient step of the update was finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.reward_scaler.update(rollout["rewards"].numpy(), rollout["done"].numpy())
        stored = self._store(rollout)
        anchor: dict[str, Tensor] = {}
        for steps in equal_parts(self._gradient_steps(), self.config.estimates):
            samples, spread = self._estimate(stored)
            samples["observations"] = self.policy.normalizer(samples["observations"])
            anchor = anchor or self._anchor(samples)
            self.updater.dual.share = delta_share * signal_share(**spread, floor=self._reward_floor)
            for minibatch in self._minibatches(samples | anchor, steps):
                self.updater.step([minibatch], count=self.config.minibatch_size)
        summary = self.updater.summary()
        if not summary["gradient_steps"]:
            raise TrainingDiverged(f"all {summary['skipped_steps']} gradient steps of one update were non-finite")
        self.policy.normalizer.update(rollout["observations"].flatten(0, 1))
        summary |= {**spread, "delta": self.updater.dual.target}
        with torch.no_grad():
            summary["entropy"] = float(self.policy.entropy({"observations": rollout["last_observations"]})[0])
        return summary

    def example_minibatch(self) -> dict[str, Tensor]:
        """A minibatch of the shapes and dtypes that updates use, filled with zeros."""
        rows = self.config.minibatch_size
        sizes = {"observations": (len(self.policy.normalizer.shift),), "actions": self.policy.log_std.shape}
        samples = ("old_log_prob", "advantage", "value_target")
        minibatch = {name: torch.zeros(rows, *size) for name, size in sizes.items()}
        minibatch |= {name: torch.zeros(rows) for name in samples}
        return {**minibatch, "age": torch.zeros(rows, dtype=torch.int64)}

    def state_dict(self) -> dict[str, Any]:
        """Everything the next update depends on."""
        return {
            "policy": self.policy.state_dict(),
            "value_function": self.value_function.network.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
            "dual": self.updater.dual.state_dict(),
            "buffer": self.buffer.state_dict(),
            "reward_scaler": self.reward_scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.policy.load_state_dict(state["policy"])
        self.value_function.network.load_state_dict(state["value_function"])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
        self.updater.dual.load_state_dict(state["dual"])
        self.buffer.load_state_dict(state["buffer"])
        self.reward_scaler.load_state_dict(state["reward_scaler"])

    def _store(self, rollout: Rollout) -> dict[str, float]:
        """Put a rollout into the buffer; how much its advantages varied where they are stored with it, else nothing."""
        stored, spread = rollout, {}
        if self.config.replay_advantages == "stored":
            stored = self.estimator.estimate(rollout, self.config.overlap)
            spread = self._standardise(stored)
        self.buffer.add(stored, rollout["done"].numel())
        return spread

    def _estimate(self, stored: dict[str, float]) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Samples of the whole buffer, in the order of its positions, and how much their advantages varied."""
        if stored:
            samples, spread = join_samples(self.buffer.iterations), stored
        else:
            *older, newest = self.buffer.iterations
            parts = [self.estimator.estimate(rollout, stale=True) for rollout in older]
            # Collected ahead, even the newest rollout is by the policy of one update ago.
            parts.append(self.estimator.estimate(newest, stale=self.config.overlap))
            samples = join_samples(parts)
            spread = self._standardise(samples)
        return {**samples, "age": self.buffer.ages()}, spread

    @torch.no_grad()
    def _anchor(self, samples: dict[str, Tensor]) -> dict[str, Tensor]:
        """What moves the ratio's 1 to the policy of now, for samples with standardised observations."""
        if self.config.anchor == "behaviour":
            return {}
        log_prob = self.policy.log_prob_standardised(samples["observations"], samples["actions"])
        return {"old_log_prob": log_prob, "weight": proximal_weights(log_prob, samples["old_log_prob"])}

    def _standardise(self, samples: dict[str, Tensor]) -> dict[str, float]:
        """Standardise advantages in place where the config says so; returns how much they and rewards varied before."""
        advantage, reward_sum = samples["advantage"], samples.pop("reward_sum")
        if self.config.normalize_advantages:
            samples["advantage"] = standardised(advantage)
        return {"advantage_std": float(advantage.std()), "reward_std": float(reward_sum.std())}

    def _minibatches(self, samples: dict[str, Tensor], left: int) -> Iterator[dict[str, Tensor]]:
        """So many minibatches in random order; gathering many at once costs less than gathering each."""
        batch_size = self.config.minibatch_size
        together = max(1, len(self.buffer) // batch_size)
        order = self.buffer.minibatches(batch_size * together, -(-left // together), self.generator)
        for index in order:
            gathered = {name: values.index_select(0, index) for name, values in samples.items()}
            if self.config.normalize_advantages and self.config.advantage_scope == "minibatch":
                gathered["advantage"] = standardised(gathered["advantage"].view(-1, batch_size)).flatten()
            if "weight" in gathered:
                gathered["advantage"] = gathered["advantage"] * gathered.pop("weight")
            parts = {name: values.split(batch_size) for name, values in gathered.items()}
            for i in range(min(left, together)):
                yield {name: part[i] for name, part in parts.items()}
            left -= together

    def _gradient_steps(self) -> int:
        """Steps of this update, in proportion to the fill of the buffer while it grows."""
        # Without room for past iterations there is nothing that further steps would replay.
        fill = self.buffer.fill if self.buffer.capacity_iterations > 1 else 0.0
        return round(self._first_steps + (self._most_steps - self._first_steps) * fill)
