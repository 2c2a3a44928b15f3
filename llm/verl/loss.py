"""The R²VPO objective under verl's policy-loss interface."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import agg_loss, register_policy_loss

from r2vpo.diagnostics import ratio_diagnostics
from r2vpo.errors import ConfigError
from r2vpo.llm.verl.config import CONFIG_CLASS, POLICY_LOSS, R2VPOPolicyLossConfig

PREFIX = "r2vpo/"
TOKENS = f"{PREFIX}tokens"
AVERAGED = ("ratio_variance", "ratio_mean", "sign_flip", "clip_fraction", "kl", "js")
"""Diagnostics that are means over tokens. They leave a micro-batch as sums, so that any split gives one result."""


@register_policy_loss("r2vpo")
def r2vpo_policy_loss(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Loss of one micro-batch, by default arXiv 2601.03320's ``-(rho A - lam (rho-1)^2)``, aggregated as verl does.

    Args:
        old_log_prob: log pi_off of the sampled tokens, in nats, ``[B, T]``.
        log_prob: log pi_theta, carries the gradient, ``[B, T]``.
        advantages: ``[B, T]``.
        response_mask: True where a token counts, ``[B, T]``.
        loss_agg_mode: verl's name of the aggregation; ``token-mean`` divides by the tokens of the global minibatch.
        config: verl's ActorConfig; ``config.policy_loss`` has objective and lambda.
        rollout_is_weights: Of the advantages at the proximal anchor, from :mod:`r2vpo.llm.verl.trainer`; else None.

    Returns:
        The loss, and sums over this micro-batch's tokens under ``r2vpo/`` (verl averages them over micro-batches and
        ranks; divide by ``r2vpo/tokens``). ``r2vpo/max_ratio`` is the largest ratio here.

    Raises:
        ConfigError: The configuration is not an :class:`R2VPOPolicyLossConfig`, or weights are given that its anchor
            does not have, or the other way round.
    """
    settings = getattr(config, "policy_loss", None)
    if not isinstance(settings, R2VPOPolicyLossConfig):
        raise ConfigError(f"{POLICY_LOSS}._target_", type(settings).__name__, CONFIG_CLASS)
    advantages = _weighted(advantages, rollout_is_weights, settings.anchor)
    mask = response_mask.bool()
    log_prob, old_log_prob = _full_precision(log_prob), _full_precision(old_log_prob)
    objective = settings.make_objective()
    lam = settings.lam if objective.uses_dual else 0.0
    moving = {"lam": lam} if objective.uses_dual else {}
    elementwise = objective(log_prob, old_log_prob, _full_precision(advantages), mask, **moving)
    loss = agg_loss(loss_mat=elementwise, loss_mask=mask, loss_agg_mode=loss_agg_mode, **config.global_batch_info)
    return loss, _token_sums(log_prob.detach() - old_log_prob, advantages, mask, lam)


def _weighted(advantages: Tensor, weights: Tensor | None, anchor: str) -> Tensor:
    if anchor == "behaviour" and weights is not None:
        raise ConfigError("algorithm.rollout_correction.rollout_is", "set", "null: rho is the importance weight")
    if anchor == "proximal" and weights is None:
        raise ConfigError("anchor", anchor, "'behaviour' in trainers other than trainer.v1.trainer_mode=r2vpo")
    return advantages if weights is None else advantages * weights


def _full_precision(values: Tensor) -> Tensor:
    # bfloat16 cannot hold the square of a ratio near 1.
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _token_sums(log_ratio: Tensor, advantages: Tensor, mask: Tensor, lam: float) -> dict[str, float]:
    tokens = int(mask.sum())
    if not tokens:
        # verl fills up batches with rows that have no token; every micro-batch must report the same names.
        return {TOKENS: 0.0, f"{PREFIX}max_ratio": 0.0} | {f"{PREFIX}{name}": 0.0 for name in AVERAGED}
    values = ratio_diagnostics(log_ratio, advantages, mask, lam)
    sums = {f"{PREFIX}{name}": values[name] * tokens for name in AVERAGED}
    return {TOKENS: float(tokens), f"{PREFIX}max_ratio": values["max_ratio"]} | sums
