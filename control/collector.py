"""Collecting rollouts: the policy acts in all environments, within their bounds, and everything raw is kept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from r2vpo.control.policy import GaussianPolicy
from r2vpo.envs.engines import AnyVectorEnv
from r2vpo.errors import ConfigError, TrainingDiverged

Rollout = dict[str, Tensor]
"""T steps of N environments: ``observations`` [T, N, D], raw, but counted from the normaliser's origin (see
:class:`r2vpo.control.normalization.ObservationNormalizer`), ``actions`` [T, N, A] before the bounds,
``old_log_prob`` [T, N] under the policy that acted, ``rewards`` (float64), ``terminated``, ``done`` [T, N],
``last_observations`` [N, D], and ``final_observations`` [K, D]: the true last observation of each episode that
ended, in row-major order of ``done``."""


OnStep = Callable[[np.ndarray, np.ndarray], None]
"""Called after a step of all environments, with its rewards and which episodes ended in it, ``[N]`` each."""


@dataclass
class FinishedEpisode:
    """A training episode that ended: environment steps taken by then in this rollout, return and length."""

    rollout_step: int
    episode_return: float
    length: int


class Collector:
    """Steps the environments with the current policy.

    Args:
        envs: Environments, stepped side by side.
        policy: Acts and scores; of its statistics, the origin alone is set here.
        bounds: Turns samples into environment actions.
        generator: Source of the action noise.
        stagger: Cut the first episode of each environment at another length, so that episodes of one length are not
            all at the same point for good. What is cut early is learned from and not reported as an episode.
    """

    def __init__(
        self,
        envs: AnyVectorEnv,
        policy: GaussianPolicy,
        bounds: ActionBounds,
        generator: torch.Generator,
        stagger: bool = False,
    ) -> None:
        self.envs = envs
        self.policy = policy
        self.bounds = bounds
        self.generator = generator
        self.stagger = stagger
        self.observations: np.ndarray | None = None
        self.episode_returns = np.zeros(envs.num_envs)
        self.episode_lengths = np.zeros(envs.num_envs, dtype=np.int64)
        self.cut_early = np.zeros(envs.num_envs, dtype=bool)
        """Environments whose episode under way meets the time limit before its time."""

    def reset(self, seed: int) -> None:
        """Start a new episode in every environment."""
        self.observations = self.envs.reset(seed)
        self.policy.normalizer.begin(self.observations)
        self.cut_early[:] = self.envs.stagger() if self.stagger else False
        self.episode_returns[:] = 0.0
        self.episode_lengths[:] = 0

    def state_dict(self) -> dict[str, Any]:
        """State of the environments and of the episodes under way."""
        return {
            "environments": self.envs.state_dict(),
            "observations": self.observations,
            "episode_returns": self.episode_returns,
            "episode_lengths": self.episode_lengths,
            "cut_early": self.cut_early,
        }

    def load_state_dict(self, state: dict[str, Any]) -> list[str]:
        """Restore what :meth:`state_dict` returned; returns what the environments could not restore."""
        self.envs.reset(seed=0)
        unknown = self.envs.load_state_dict(state["environments"])
        self.observations = self.envs.observations.copy()
        self.episode_returns, self.episode_lengths = state["episode_returns"], state["episode_lengths"]
        # States from before episodes were staggered have none that are cut early.
        self.cut_early = state.get("cut_early", np.zeros_like(self.cut_early))
        return unknown

    @torch.no_grad()
    def collect(self, steps: int, on_step: OnStep | None = None) -> tuple[Rollout, list[FinishedEpisode]]:
        """Take ``steps`` steps in every environment.

        Args:
            steps: T.
            on_step: Called after each of them, with the rewards and which episodes ended, ``[N]`` each.

        Returns:
            The rollout and the episodes that ended in it.

        Raises:
            EnvironmentFailure: An environment raised, or returned what its spaces do not promise.
            TrainingDiverged: An action or its log-prob is not finite.
        """
        assert self.observations is not None, "reset first"
        num_envs, observation_size = self.observations.shape
        std = self.policy.bounded_log_std().exp()
        noise = (torch.randn(steps, num_envs, len(std), generator=self.generator) * std).numpy()
        actor, bounds = NumpyActor(self.policy), self.bounds.for_rows(num_envs)
        relative = self.policy.normalizer.relative
        observations = np.empty((steps, num_envs, observation_size), dtype=np.float32)
        rewards = np.empty((steps, num_envs))
        terminated, truncated = np.empty((2, steps, num_envs), dtype=bool)
        actions = noise  # each row of noise becomes a row of actions
        finals: list[np.ndarray] = []
        finished: list[FinishedEpisode] = []
        counted = 0
        for t, (inputs, samples) in enumerate(zip(observations, actions, strict=True)):
            inputs[...] = relative(self.observations)
            samples += actor.mean(inputs)
            step = self.envs.step(bounds(samples))
            self.observations = step.observations
            rewards[t], terminated[t], truncated[t] = step.rewards, step.terminated, step.truncated
            if step.final_observations:
                self._count(rewards[counted : t + 1])
                counted = t + 1
                for i in sorted(step.final_observations):
                    finals.append(step.final_observations[i])
                    ended = self._finish(i, counted * num_envs)
                    if not (self.cut_early[i] and step.truncated[i]):
                        finished.append(ended)
                    self.cut_early[i] = False
            if on_step is not None:
                on_step(step.rewards, step.terminated | step.truncated)
        self._count(rewards[counted:])
        rollout = {
            "observations": torch.from_numpy(observations),
            "actions": torch.from_numpy(actions),
            "rewards": torch.from_numpy(rewards),
            "terminated": torch.from_numpy(terminated),
            "done": torch.from_numpy(terminated | truncated),
            "last_observations": torch.from_numpy(relative(self.observations)),
            "final_observations": torch.from_numpy(relative(np.reshape(finals, (-1, observation_size)))),
        }
        # The policy has not changed since it acted, so one batched pass gives the behaviour log-probs; the same
        # arithmetic scores the samples in the update, which makes the ratio exactly 1 before its first step.
        flat = {name: rollout[name].flatten(0, 1) for name in ("observations", "actions")}
        rollout["old_log_prob"] = self.policy.log_prob(flat).view(steps, num_envs)
        if not torch.isfinite(rollout["old_log_prob"]).all():
            raise TrainingDiverged("log-probs of the sampled actions are not finite")
        return rollout, finished

    def _count(self, rewards: np.ndarray) -> None:
        """Take steps in which no episode ended but in the last, ``[k, N]``, into the episodes under way."""
        # Unlike a sum, accumulation has one order, that of the steps.
        self.episode_returns = np.add.accumulate(np.concatenate((self.episode_returns[None], rewards)))[-1].copy()
        self.episode_lengths += len(rewards)

    def _finish(self, index: int, taken: int) -> FinishedEpisode:
        ended = FinishedEpisode(taken, float(self.episode_returns[index]), int(self.episode_lengths[index]))
        self.episode_returns[index], self.episode_lengths[index] = 0.0, 0
        return ended


class NumpyActor:
    """The mean action of a policy whose weights stay as they are for one rollout.

    It shares its weights with the policy and copies the rest. Its rounding may differ from torch's in the last bit,
    which is of no consequence: the action is what counts, and it is scored by the policy itself.
    """

    def __init__(self, policy: GaussianPolicy) -> None:
        layers = [layer for layer in policy.network if isinstance(layer, nn.Linear)]
        self.layers = [(layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in layers]
        normalizer = policy.normalizer
        self.enabled = normalizer.enabled
        self.shift, self.scale = normalizer.shift.numpy(), normalizer.scale.numpy()
        self.low, self.high = (np.array(sign * normalizer.bound, dtype=np.float32) for sign in (-1.0, 1.0))
        self._rows = 0

    def mean(self, observations: np.ndarray) -> np.ndarray:
        """Mean action ``[N, A]`` for raw observations ``[N, D]``, both float32; overwritten by the next call."""
        if len(observations) != self._rows:
            self._allocate(*observations.shape)
        values = observations
        if self.enabled:
            values = np.subtract(observations, self._shift, self._inputs)
            np.multiply(values, self._scale, values)
            np.maximum(values, self.low, values)
            np.minimum(values, self.high, values)
        for weight, bias, outputs in self._hidden:
            values = values.dot(weight, outputs)
            np.add(values, bias, values)
            np.tanh(values, values)
        weight, bias, outputs = self._last
        return np.add(values.dot(weight, outputs), bias, outputs)

    def _allocate(self, rows: int, size: int) -> None:
        self._rows = rows
        self._inputs = np.empty((rows, size), dtype=np.float32)
        self._shift, self._scale = repeated(self.shift, rows), repeated(self.scale, rows)
        layers = [(weight, repeated(bias, rows)) for weight, bias in self.layers]
        *self._hidden, self._last = [(weight, bias, np.empty_like(bias)) for weight, bias in layers]


WIDEST = 1e30
"""Bounds beyond this are none that anybody means, and samples scaled to them overflow."""


class ActionBounds:
    """Turns samples of the Gaussian into actions the environment accepts, both flat.

    Args:
        space: The environment's action space; bounds may be infinite unless ``kind`` is ``tanh``.
        kind: ``rescale`` takes -1 and 1 for the bounds where both are finite, so that a first standard deviation of 1
            spans any range, and cuts there; ``clip`` cuts at the bounds and changes nothing else; ``tanh`` squashes
            into them.

    Raises:
        ConfigError: Bounds that this kind cannot have.
    """

    def __init__(self, space: gym.spaces.Box, kind: str) -> None:
        self.low, self.high, self.kind = space.low.ravel(), space.high.ravel(), kind
        bounded = np.isfinite(self.low) & np.isfinite(self.high)
        if kind == "tanh" and not bounded.all():
            raise ConfigError("action_bounds", kind, f"rescale or clip where actions have no bounds: {space}")
        low, high = np.where(bounded, self.low, -1.0), np.where(bounded, self.high, 1.0)
        if kind != "clip" and max(float(np.max(high)), -float(np.min(low))) > WIDEST:
            raise ConfigError("action_bounds", kind, f"clip where bounds are beyond {WIDEST:.0e}: {space}")
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


def repeated(row: np.ndarray, rows: int) -> np.ndarray:
    """``[K]`` to ``[rows, K]``: NumPy takes a third of the time where both operands have the same shape."""
    return np.tile(row, (rows, 1))
