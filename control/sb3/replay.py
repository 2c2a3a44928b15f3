"""Replay of past rollouts for Stable-Baselines3 (SB3): raw rollouts in, its minibatches under today's networks out.

SB3's rollout buffer holds observations and rewards as ``VecNormalize`` saw them at each step. The fresh rollout is
trained on just so, because its log-probs belong to those inputs. Older ones are kept raw, and go through today's
statistics and today's value function at each update.

A stored rollout of T steps in N environments is a dict of tensors: ``observations/<key>`` ``[T, N, ...]``,
``last_observations/<key>`` ``[N, ...]`` after the last step, ``final_observations/<key>`` ``[K, ...]`` of the K
truncated episodes, ``actions`` ``[T, N, A]``, ``rewards``, ``old_log_prob``, ``done`` and ``truncated`` ``[T, N]``.
``<key>`` is that of a Dict space, and empty for other spaces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor

from r2vpo.advantages import offpolicy_estimates
from r2vpo.control.sb3.minibatch import ReplayedSamples, evaluate_actions
from r2vpo.errors import CheckpointError, ConfigError
from r2vpo.replay import proximal_weights
from r2vpo.validation import Anchor

Rollout = dict[str, Tensor]
Arrays = dict[str, np.ndarray]

CHUNK = 1024
"""Samples of one forward pass over an old rollout."""


def normalized_keys(env: VecEnv, normalizer: VecNormalize | None) -> list[str]:
    """Keys of the observations that ``VecNormalize`` standardises.

    Raises:
        ConfigError: A wrapper above ``VecNormalize`` changes what it standardised, so that it has no raw counterpart.
    """
    if normalizer is None or not normalizer.norm_obs:
        return []
    keys = [""] if normalizer.norm_obs_keys is None else list(normalizer.norm_obs_keys)
    spaces: tuple[Any, Any] = (normalizer.observation_space, env.observation_space)
    for key in keys:
        inner, outer = (space[key] if key else space for space in spaces)
        if inner.shape != outer.shape:
            allowed = "wrapped by VecNormalize last (VecFrameStack and the like below it) to replay past rollouts"
            raise ConfigError("env", type(env).__name__, allowed)
    return keys


class RolloutRecorder:
    """Takes the place of the callback while SB3 collects, and keeps what its rollout buffer does not.

    Args:
        callback: Gets every call.
        env: Of the collection.
        normalizer: Its ``VecNormalize``, if there is one.
    """

    def __init__(self, callback: BaseCallback, env: VecEnv, normalizer: VecNormalize | None) -> None:
        self.callback = callback
        self.normalizer = normalizer
        self.keys = normalized_keys(env, normalizer)
        self.local: dict[str, Any] = {}
        self.observations: list[Arrays] = []
        self.final_observations: list[Arrays] = []
        self.rewards: list[np.ndarray] = []
        self.done: list[np.ndarray] = []
        self.truncated: list[np.ndarray] = []

    def on_rollout_start(self) -> None:
        """Before the first step."""
        self.observations.append(self._raw())
        self.callback.on_rollout_start()

    def update_locals(self, local: dict[str, Any]) -> None:
        """Local variables of the collection."""
        self.local = local
        self.callback.update_locals(local)

    def on_step(self) -> bool:
        """After the environments stepped, before SB3 adds bootstrap values to the rewards in place."""
        proceed = self.callback.on_step()
        dones, infos = self.local["dones"], self.local["infos"]
        # SB3's own condition for a bootstrap value.
        final = [info.get("terminal_observation") if done else None for done, info in zip(dones, infos, strict=True)]
        truncated = [
            bool(info.get("TimeLimit.truncated", False)) and last is not None
            for info, last in zip(infos, final, strict=True)
        ]
        self.final_observations += [self._unnormalized(final[i]) for i in np.flatnonzero(truncated)]
        rewards = self.local["rewards"] if self.normalizer is None else self.normalizer.get_original_reward()
        self.rewards.append(np.array(rewards))
        self.done.append(np.array(dones))
        self.truncated.append(np.array(truncated))
        self.observations.append(self._raw())
        return proceed

    def on_rollout_end(self) -> None:
        """After the last step."""
        self.callback.on_rollout_end()

    def rollout(self, buffer: RolloutBuffer, last_observations: np.ndarray | Arrays) -> Rollout:
        """What was collected, raw.

        Args:
            buffer: Filled, and not yet drawn from.
            last_observations: As the environment returned them at the last step.
        """
        arrays: Arrays = {"actions": buffer.actions, "old_log_prob": buffer.log_probs}
        for name in ("rewards", "done", "truncated"):
            arrays[name] = np.stack(getattr(self, name))
        for key, seen in _by_key(buffer.observations).items():
            raw = key in self.keys
            shape, last = seen.shape[2:], self.observations[-1] if raw else _by_key(last_observations)
            final = [np.reshape(each[key], shape) for each in self.final_observations]
            steps = [np.reshape(each[key], (-1, *shape)) for each in self.observations[:-1]] if raw else seen
            arrays[f"observations/{key}"] = np.asarray(steps)
            arrays[f"last_observations/{key}"] = np.reshape(last[key], (-1, *shape))
            arrays[f"final_observations/{key}"] = np.array(final) if final else np.zeros((0, *shape), seen.dtype)
        return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}

    def _raw(self) -> Arrays:
        if not self.keys or self.normalizer is None:
            return {}
        return _by_key(self.normalizer.get_original_obs())

    def _unnormalized(self, observation: Any) -> Arrays:
        # VecNormalize overwrites the final observation. Its statistics have not moved since, so this gives the raw
        # one back, except where it was clipped.
        if not self.keys or self.normalizer is None:
            return _by_key(observation)
        return _by_key(self.normalizer.unnormalize_obs(observation))


@dataclass
class Reestimator:
    """Samples of old rollouts under the current networks and statistics.

    Args:
        policy: Actor and critic.
        normalizer: Holds today's statistics.
        gamma: Discount.
        gae_lambda: Trace decay.
        trace_cap: Cap of the importance weights inside the advantages.
        anchor: Where the ratio is 1: at the policy that acted, or, with weights for that, at today's.
    """

    policy: ActorCriticPolicy
    normalizer: VecNormalize | None
    gamma: float
    gae_lambda: float
    trace_cap: float
    anchor: Anchor = "behaviour"

    @torch.no_grad()
    def samples(self, rollout: Rollout) -> ReplayedSamples:
        """Everything of one rollout as one minibatch of T * N samples, on the CPU; ``old_values`` are today's.

        Advantages and value targets are those of :func:`r2vpo.advantages.offpolicy_estimates`.
        """
        done, truncated = rollout["done"].numpy(), rollout["truncated"].numpy()
        observations = self._inputs(rollout, "observations", flat_steps=True)
        actions = rollout["actions"].flatten(0, 1).float()
        values, log_prob = (x.view(done.shape) for x in self._evaluated(observations, actions))
        final_values = np.zeros(done.shape)
        final_values[truncated] = self._values(self._inputs(rollout, "final_observations"))
        rewards = rollout["rewards"].numpy()
        advantages, targets, _ = offpolicy_estimates(
            rewards if self.normalizer is None else self.normalizer.normalize_reward(rewards),
            values.double().numpy(),
            self._values(self._inputs(rollout, "last_observations")),
            final_values[done],
            done & ~truncated,
            done,
            (log_prob.double() - rollout["old_log_prob"].double()).numpy(),
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            cap=self.trace_cap,
        )
        old_log_prob, weights = rollout["old_log_prob"], torch.ones(done.shape)
        if self.anchor == "proximal":
            old_log_prob, weights = log_prob, proximal_weights(log_prob, old_log_prob)
        estimates = (torch.from_numpy(x).float() for x in (advantages, targets))
        columns = (x.flatten() for x in (values, old_log_prob, *estimates, weights))
        return ReplayedSamples(_tree(observations), actions, *columns)

    def _inputs(self, rollout: Rollout, name: str, flat_steps: bool = False) -> dict[str, Tensor]:
        arrays = {
            full.removeprefix(f"{name}/"): (values.flatten(0, 1) if flat_steps else values).numpy()
            for full, values in rollout.items()
            if full.startswith(f"{name}/")
        }
        if self.normalizer is not None and self.normalizer.norm_obs:
            arrays = _by_key(self.normalizer.normalize_obs(_tree(arrays)))
        return {key: torch.from_numpy(array) for key, array in arrays.items()}

    def _chunks(self, inputs: dict[str, Tensor]) -> list[Any]:
        parts = {key: values.to(self.policy.device).split(CHUNK) for key, values in inputs.items()}
        return [_tree(dict(zip(parts, chunk, strict=True))) for chunk in zip(*parts.values(), strict=True)]

    def _evaluated(self, inputs: dict[str, Tensor], actions: Tensor) -> tuple[Tensor, Tensor]:
        pairs = zip(self._chunks(inputs), actions.to(self.policy.device).split(CHUNK), strict=True)
        values, log_probs, _ = zip(*(evaluate_actions(self.policy, *pair) for pair in pairs), strict=True)
        return torch.cat(values).cpu(), torch.cat(log_probs).cpu()

    def _values(self, inputs: dict[str, Tensor]) -> np.ndarray:
        if not len(next(iter(inputs.values()))):
            return np.zeros(0)
        values = [self.policy.predict_values(chunk).flatten() for chunk in self._chunks(inputs)]
        return torch.cat(values).double().cpu().numpy()


def fresh_samples(buffer: RolloutBuffer) -> ReplayedSamples:
    """The rollout just collected as one minibatch of T * N samples, as SB3 has it; its ratio is 1 at either anchor."""

    def flat(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.reshape(-1, *array.shape[2:]))

    observations = {key: flat(array) for key, array in _by_key(buffer.observations).items()}
    weights = np.ones_like(buffer.log_probs)
    rest = map(flat, (buffer.values, buffer.log_probs, buffer.advantages, buffer.returns, weights))
    return ReplayedSamples(_tree(observations), flat(buffer.actions).float(), *rest)


def joined(parts: list[ReplayedSamples]) -> ReplayedSamples:
    """Samples end to end."""

    def join(values: tuple[Any, ...]) -> Any:
        if isinstance(values[0], dict):
            return {key: torch.cat([value[key] for value in values]) for key in values[0]}
        return torch.cat(values)

    return ReplayedSamples(*map(join, zip(*parts, strict=True)))


def check_rollout(rollout: Any, buffer: RolloutBuffer) -> None:
    """Raise CheckpointError unless a stored rollout fits the spaces of a model's rollout buffer."""
    shapes = {f"observations/{key}": array.shape[2:] for key, array in _by_key(buffer.observations).items()}
    shapes["actions"] = buffer.actions.shape[2:]
    for name, shape in shapes.items():
        stored = rollout.get(name) if isinstance(rollout, dict) else None
        if not isinstance(stored, Tensor) or stored.shape[2:] != shape:
            found = "nothing" if not isinstance(stored, Tensor) else tuple(stored.shape[2:])
            raise CheckpointError(f"this replay buffer does not fit the model: {name} have shape {found}, not {shape}")


def _by_key(observations: Any) -> dict[str, Any]:
    return observations if isinstance(observations, dict) else {"": observations}


def _tree(by_key: dict[str, Any]) -> Any:
    return by_key.get("", by_key)
