"""What the ratio looks like: measured before any clamp, in float64, so that nothing is hidden.

Expectations are over samples of the behaviour policy pi_off. With f the generator of a divergence,
E_off[f(rho)] estimates it; near rho = 1, JS is about Var/8 and KL about Var/2 (arXiv 2601.03320, Lemma 3.1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CLIP_REFERENCE = 0.2
"""Clip fraction is reported at PPO's usual epsilon, whatever the objective, so that runs can be compared."""


def ratio_diagnostics(
    log_ratio: Tensor, advantage: Tensor, mask: Tensor | None = None, lam: float = 0.0
) -> dict[str, float]:
    """Summaries of one update's ratios.

    Args:
        log_ratio: ``log pi_theta - log pi_off``, any shape, unclamped.
        advantage: Same shape.
        mask: True where a sample counts, same shape.
        lam: Lambda in force, for the sign-flip fraction.

    Returns:
        ``ratio_variance`` E[(rho-1)^2], about 1 and not about the batch mean; ``ratio_mean``; ``max_ratio``;
        ``ess`` the effective sample size as a fraction of the samples, (sum rho)^2 / (N sum rho^2);
        ``sign_flip`` the fraction with A and A - 2 lam (rho-1) of opposite sign, where the penalty outweighs the
        advantage; ``clip_fraction`` with abs(rho-1) > 0.2; ``kl_k1`` E[-log rho] and ``kl`` (k3)
        E[rho - 1 - log rho], estimates of KL(pi_off, pi_theta) in nats; ``js`` in nats.

    Raises:
        ValueError: There is no unmasked sample.
    """
    if mask is not None:
        log_ratio, advantage = log_ratio[mask.bool()], advantage[mask.bool()]
    log_ratio, advantage = log_ratio.detach().double().flatten(), advantage.detach().double().flatten()
    if not log_ratio.numel():
        raise ValueError("ratio_diagnostics needs at least one unmasked sample")
    ratio = log_ratio.exp()
    relative = (log_ratio - log_ratio.max()).exp()  # the effective sample size knows no scale, and this cannot overflow
    values = {
        "ratio_variance": (ratio - 1.0).square().mean(),
        "ratio_mean": ratio.mean(),
        "max_ratio": ratio.max(),
        "ess": relative.sum().square() / (relative.numel() * relative.square().sum()),
        "sign_flip": (advantage * (advantage - 2.0 * lam * (ratio - 1.0)) < 0).double().mean(),
        "clip_fraction": ((ratio - 1.0).abs() > CLIP_REFERENCE).double().mean(),
        "kl_k1": -log_ratio.mean(),
        "kl": (ratio - 1.0 - log_ratio).mean(),
        "js": jensen_shannon_generator(log_ratio).mean(),
    }
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))


def ratio_variance_by_age(log_ratio: Tensor, age: Tensor) -> dict[int, float]:
    """E[(rho-1)^2] for each age (in iterations) of replayed samples; both arguments ``[N]``."""
    squares = (log_ratio.detach().double().exp() - 1.0).square()
    return {int(a): float(squares[age == a].mean()) for a in age.unique()}


def jensen_shannon_generator(log_ratio: Tensor) -> Tensor:
    """``f(u) = (u/2) ln u - ((u+1)/2) ln((u+1)/2)`` at u = exp(log_ratio), elementwise.

    f(1) = 0, f'(1) = 0 and f''(1) = 1/4; E_off[f(rho)] is the Jensen-Shannon divergence in nats.
    """
    ratio = log_ratio.exp()
    # ln((u+1)/2): the first form is exact near u = 1, the second does not overflow.
    log_mixture = torch.where(log_ratio < 30.0, torch.log1p(0.5 * torch.expm1(log_ratio)), log_ratio - math.log(2.0))
    first = torch.where(ratio > 0, 0.5 * ratio * (log_ratio - log_mixture), 0.0)
    return first - 0.5 * log_mixture


def gaussian_ratio_variance(old_mean: Tensor, old_std: Tensor, new_mean: Tensor, new_std: Tensor) -> Tensor:
    """Closed form of Var(rho) between diagonal Gaussians, an oracle for the Monte-Carlo estimate.

    ``prod_d s0^2 / (s1 sqrt(2 s0^2 - s1^2)) exp((m1 - m0)^2 / (2 s0^2 - s1^2)) - 1``: with s0 the old and s1 the
    new standard deviation; infinite where some s1 >= sqrt(2) s0.

    Args:
        old_mean, old_std, new_mean, new_std: ``[..., D]``, broadcast against each other.

    Returns:
        Variance of the ratio, ``[...]``.
    """
    spread = 2.0 * old_std.square() - new_std.square()
    finite = (spread > 0).all(dim=-1)
    safe = torch.where(spread > 0, spread, 1.0)
    log_terms = 2.0 * old_std.log() - new_std.log() - 0.5 * safe.log() + (new_mean - old_mean).square() / safe
    return torch.where(finite, torch.expm1(log_terms.sum(dim=-1)), torch.inf)
