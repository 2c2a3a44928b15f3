"""One minibatch of Stable-Baselines3 (SB3) in the core's words: what its PPO loss has besides the surrogate."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Discrete
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples, PyTorchObs, RolloutBufferSamples
from torch import Tensor
from torch.nn.functional import mse_loss

from r2vpo.advantages import standardised
from r2vpo.objectives import Objective
from r2vpo.update import Scored


class ReplayedSamples(NamedTuple):
    """SB3's fields, ``[B]`` or ``[B, ...]``, of samples of any age."""

    observations: PyTorchObs
    actions: Tensor
    old_values: Tensor
    old_log_prob: Tensor
    """Of the policy at which the ratio is 1."""
    advantages: Tensor
    returns: Tensor
    weights: Tensor
    """Of the advantages, after these are standardised."""


Minibatch = RolloutBufferSamples | DictRolloutBufferSamples | ReplayedSamples


class KLLimitReached(Exception):
    """A minibatch is further from the behaviour policy than ``target_kl`` allows; ends the update."""


@dataclass(frozen=True)
class RecordedObjective(Objective):
    """An objective that remembers the mean loss of each call, for SB3's log."""

    losses: list[float] = field(default_factory=list)

    def __call__(self, *arguments: Any, **overrides: Any) -> Tensor:
        """Elementwise loss, as of the objective itself."""
        loss = super().__call__(*arguments, **overrides)
        self.losses.append(loss.detach().mean().item())
        return loss


@dataclass
class MinibatchScorer:
    """Scores SB3's minibatches; everything but the surrogate is that of SB3's PPO.

    Args:
        policy: Whose parameters are trained.
        normalize_advantage: Standardise advantages within each minibatch.
        ent_coef: Weight of the entropy bonus.
        vf_coef: Weight of the squared value error.
        clip_range: Bound of abs(rho - 1) that ``clip_fraction`` counts against.
        clip_range_vf: Largest move of a value since the update began that the value loss sees; None for no bound.
        target_kl: The update ends where a minibatch's KL estimate exceeds 1.5 times this; None for no limit.
    """

    policy: ActorCriticPolicy
    normalize_advantage: bool
    ent_coef: float
    vf_coef: float
    clip_range: float
    clip_range_vf: float | None
    target_kl: float | None
    logs: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """One number a minibatch under SB3's names; ``approx_kl`` of the last pass only, as SB3 has it."""

    def __call__(self, minibatch: Minibatch) -> Scored:
        """Score samples ``[B]``.

        Raises:
            KLLimitReached: See ``target_kl``.
        """
        values, log_prob, entropy = evaluate_actions(self.policy, minibatch.observations, minibatch.actions)
        entropy_loss = -(-log_prob if entropy is None else entropy).mean()
        value_loss = mse_loss(minibatch.returns, self._bounded(values, minibatch.old_values))
        self.logs["entropy_loss"].append(entropy_loss.item())
        self.logs["value_loss"].append(value_loss.item())
        self._measure(log_prob.detach() - minibatch.old_log_prob)
        return Scored(
            log_prob,
            minibatch.old_log_prob,
            self._advantages(minibatch),
            auxiliary_loss=self.ent_coef * entropy_loss + self.vf_coef * value_loss,
        )

    def start_pass(self) -> None:
        """Called before each pass over one rollout's worth of samples."""
        self.logs["approx_kl"].clear()

    def _advantages(self, minibatch: Minibatch) -> Tensor:
        advantages = minibatch.advantages
        if self.normalize_advantage and len(advantages) > 1:
            advantages = standardised(advantages)
        return advantages * minibatch.weights if isinstance(minibatch, ReplayedSamples) else advantages

    def _bounded(self, values: Tensor, old_values: Tensor) -> Tensor:
        if self.clip_range_vf is None:
            return values
        return old_values + (values - old_values).clamp(-self.clip_range_vf, self.clip_range_vf)

    def _measure(self, log_ratio: Tensor) -> None:
        ratio = log_ratio.exp()
        approx_kl = (ratio - 1.0 - log_ratio).mean().item()
        self.logs["approx_kl"].append(approx_kl)
        self.logs["clip_fraction"].append(((ratio - 1.0).abs() > self.clip_range).float().mean().item())
        if self.target_kl is not None and approx_kl > 1.5 * self.target_kl:
            raise KLLimitReached


def evaluate_actions(
    policy: ActorCriticPolicy, observations: PyTorchObs, actions: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Values ``[B]``, log-probs ``[B]`` and entropies ``[B]`` (None without a closed form) of stored actions.

    Args:
        policy: SB3's actor and critic.
        observations: ``[B, ...]``, or a dict of such.
        actions: ``[B, A]`` as SB3's rollout buffer holds them, before any clipping.
    """
    if isinstance(policy.action_space, Discrete):
        actions = actions.long().flatten()
    values, log_prob, entropy = policy.evaluate_actions(observations, actions)
    return values.flatten(), log_prob, entropy


def picked(samples: Minibatch, index: Tensor, device: torch.device) -> Minibatch:
    """The samples at ``index`` (int64 ``[B]``), on the device."""

    def pick(values: Any) -> Any:
        if isinstance(values, dict):
            return {key: value[index].to(device) for key, value in values.items()}
        return values[index].to(device)

    return type(samples)(*map(pick, samples))
