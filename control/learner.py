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
class Trajectories:
    """Rollouts laid end to end, T steps of N environments in all, as they stay within an update."""

    inputs: Tensor
    """Standardised observations, ``[T * N, D]``."""
    actions: Tensor
    old_log_prob: Tensor
    rewards: NDArray[np.float64]
    """Scaled, ``[T, N]``."""
    terminated: NDArray[np.bool_]
    done: NDArray[np.bool_]
    """Where the next row does not go on from this one: episodes end, and so does each rollout."""
    final_inputs: Tensor
    """What really followed there, standardised, ``[K, D]``, in row-major order of ``done``."""
    stale: int
    """How many of the T steps, the first ones, an older policy than the current one took."""


@dataclass
class Estimator:
    """Advantages and value targets of rollouts under the current networks and statistics."""

    policy: GaussianPolicy
    value_function: ValueFunction
    reward_scaler: RewardScaler
    gamma: float
    gae_lambda: float
    trace_cap: float

    def lay_out(self, rollouts: Sequence[Rollout], stale: int) -> Trajectories:
        """Rollouts as collected, oldest first; an older policy than the current one took the first ``stale``."""

        def joined(name: str) -> Tensor:
            return torch.cat([rollout[name] for rollout in rollouts])

        ended = [_ended(rollout) for rollout in rollouts]
        return Trajectories(
            self.policy.normalizer(joined("observations").flatten(0, 1)),
            joined("actions").flatten(0, 1),
            joined("old_log_prob").flatten(),
            self.reward_scaler(joined("rewards").numpy()),
            joined("terminated").numpy(),
            np.concatenate([done for done, _ in ended]),
            self.policy.normalizer(torch.cat([final for _, final in ended])),
            sum(len(rollout["done"]) for rollout in rollouts[:stale]),
        )

    @torch.no_grad()
    def estimate(self, trajectories: Trajectories) -> dict[str, Tensor]:
        """What the samples are worth, each ``[T * N]``.

        Traces of stale steps are weighted by the truncated ratios (see :func:`r2vpo.advantages.offpolicy_estimates`).

        Returns:
            ``advantage`` (not normalised), ``reward_sum`` (the part of it that would be left if the value function
            were 0) and ``value_target``.
        """
        rewards, terminated, done = trajectories.rewards, trajectories.terminated, trajectories.done
        values = self._values(trajectories.inputs).reshape(done.shape)
        log_ratio, stale = np.zeros(done.shape), trajectories.stale
        if stale:
            inputs, actions, old_log_prob = (
                part[: stale * done.shape[1]]
                for part in (trajectories.inputs, trajectories.actions, trajectories.old_log_prob)
            )
            moved = self.policy.log_prob_standardised(inputs, actions) - old_log_prob
            log_ratio[:stale] = moved.double().view(stale, -1).numpy()
        traces = {"gamma": self.gamma, "gae_lambda": self.gae_lambda}
        nothing = np.zeros_like(values)
        final_values = self._values(trajectories.final_inputs)
        advantages, targets, weights = offpolicy_estimates(
            rewards, values, nothing[0], final_values, terminated, done, log_ratio, **traces, cap=self.trace_cap
        )
        reward_sums = generalized_advantages(
            rewards, nothing, nothing, terminated, done, **traces, trace_weights=weights
        )
        estimates = {"advantage": advantages, "reward_sum": reward_sums, "value_target": targets}
        return {name: torch.from_numpy(array).float().flatten() for name, array in estimates.items()}

    def _values(self, inputs: Tensor) -> NDArray[np.float64]:
        return self.value_function.forward_standardised(inputs).double().numpy()


def _ended(rollout: Rollout) -> tuple[NDArray[np.bool_], Tensor]:
    """``done`` with the last row cut as by a time limit, and the observations that followed where it is True."""
    done = rollout["done"].numpy().copy()
    following, ended = rollout["last_observations"].clone(), rollout["done"][-1]
    finals = rollout["final_observations"]
    before = len(finals) - int(ended.sum())
    following[ended] = finals[before:]
    done[-1] = True
    return done, torch.cat([finals[:before], following])


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
        # PPO's usual 1e-5 holds the critic back: its gradients are not much larger.
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
            # Clipped together, the actor's gradient, ten times as large, would set the size of the critic's.
            [sum(p.numel() for p in network.parameters()) for network in (self.policy, self.value_function)],
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
        samples, trajectories, spread = self._buffered(rollout)
        samples |= self._anchor(samples)
        for steps in equal_parts(self._gradient_steps(), self.config.estimates):
            if trajectories is not None:
                samples |= self.estimator.estimate(trajectories)
                spread = self._standardise(samples)
            self.updater.dual.share = delta_share * signal_share(**spread, floor=self._reward_floor)
            for minibatch in self._minibatches(samples, steps):
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

    def _buffered(self, rollout: Rollout) -> tuple[dict[str, Tensor], Trajectories | None, dict[str, float]]:
        """Put a rollout into the buffer.

        Returns:
            Samples of the whole buffer in the order of its positions, and the trajectories to estimate their worth
            from; or None in their place, where that is stored with the samples, and how much the newest varied.
        """
        # Collected ahead, even the newest rollout is by the policy of one update ago.
        newest_is_stale, size = int(self.config.overlap), rollout["done"].numel()
        if self.config.replay_advantages == "stored":
            samples = {name: rollout[name].flatten(0, 1) for name in ("observations", "actions", "old_log_prob")}
            samples |= self.estimator.estimate(self.estimator.lay_out([rollout], newest_is_stale))
            spread = self._standardise(samples)
            self.buffer.add(samples, size)
            samples, trajectories = join_samples(self.buffer.iterations), None
            samples["observations"] = self.policy.normalizer(samples["observations"])
        else:
            self.buffer.add(rollout, size)
            rollouts, spread = self.buffer.iterations, {}
            trajectories = self.estimator.lay_out(rollouts, len(rollouts) - 1 + newest_is_stale)
            inputs, actions = trajectories.inputs, trajectories.actions
            samples = {"observations": inputs, "actions": actions, "old_log_prob": trajectories.old_log_prob}
        return {**samples, "age": self.buffer.ages()}, trajectories, spread

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
