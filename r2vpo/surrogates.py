"""Objectives of other people's papers from 2025 and 2026, and what every objective is made of.

Symbols, shapes and rules are those of :mod:`r2vpo.objectives`, which lists these functions beside its own. Each was
checked against the code that its docstring names. Two of them, :func:`dppo` and :func:`drpo`, compare probabilities and
not only ratios: they are for tokens and other discrete actions, because a density has a unit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from r2vpo.errors import ConfigError

LOG_RATIO_BOUND = 20.0
"""Log-ratios are clamped to plus and minus this value: exp(20) is 4.9e8, still far from overflow when squared."""

_LEAST_REST = 1e-8
"""Smallest probability of all other actions together: what float32 cannot tell from 0 must not make a KL infinite."""

_EQUAL = 1.0 - 1e-4
"""Quotient above which two squared log-ratios are taken for equal."""
_UNMOVED = 1e-10
"""Squared log-ratio below which single precision decides the sign."""


def sapo(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantage: Tensor,
    mask: Tensor | None = None,
    *,
    tau_pos: float = 1.0,
    tau_neg: float = 1.05,
) -> Tensor:
    """``J = (4 / tau) sigmoid(tau (rho - 1)) A``, a soft gate (SAPO, arXiv 2511.20347; TRL and verl: ``sapo``).

    The weight is ``4 s (1 - s) rho A`` with s the sigmoid. The paper weighs every completion alike (``seq-mean``).

    Args:
        log_prob, old_log_prob, advantage, mask: See the table in :mod:`r2vpo.objectives`.
        tau_pos, tau_neg: Temperature where A > 0, and elsewhere. Higher ones close the gate earlier.
    """
    _, log_ratio, advantage = prepared(log_prob, old_log_prob, advantage, mask)
    tau = torch.full_like(advantage, tau_neg).masked_fill(advantage > 0, tau_pos)
    gate = torch.sigmoid(tau * (clamped_ratio(log_ratio) - 1.0)) * 4.0 / tau
    return masked_loss(gate * advantage, mask)


def dppo(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantage: Tensor,
    mask: Tensor | None = None,
    *,
    delta: float = 0.15,
    divergence: str = "tv",
    cap: float = 20.0,
) -> Tensor:
    """``J = c log pi``, ``c = min(rho, cap) A``, 0 outside a trust region (DPPO, arXiv 2602.04879; verl: ``dppo_tv``).

    Outside are elements that moved the way their advantage points and whose divergence from the behaviour policy,
    with all other actions taken together as one, is above ``delta``. prime-rl's default differs: ``delta`` 0.2, no cap,
    and a penalty ``1e-3 (log rho)^2``.

    Args:
        log_prob, old_log_prob, advantage, mask: See the table in :mod:`r2vpo.objectives`.
        delta: Largest divergence; the authors take 0.15 with ``"tv"`` and 0.05 with ``"kl"``.
        divergence: ``"tv"``, total variation ``abs(pi - pi_off)``, or ``"kl"``, ``KL(pi_off, pi)`` in nats.
        cap: Largest ratio in the weight (Section 5.4).
    """
    log_prob, log_ratio, advantage = prepared(log_prob, old_log_prob, advantage, mask)
    now, before = log_prob.detach().clamp(max=0.0), kept(old_log_prob, mask).clamp(max=0.0)
    if divergence == "tv":
        distance = (now.exp() - before.exp()).abs()
    elif divergence == "kl":
        rest_now, rest_before = (-torch.expm1(x).clamp(max=-_LEAST_REST) for x in (now, before))
        distance = before.exp() * (before - now) + rest_before * (rest_before / rest_now).log()
    else:
        raise ConfigError("divergence", divergence, "'tv' or 'kl'")
    weight = clamped_ratio(log_ratio.detach()).clamp(max=cap) * advantage
    outside = _outward(log_ratio, advantage) & (distance > delta)
    return masked_loss(weight.masked_fill(outside, 0.0) * log_prob, mask)


def m2po(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantage: Tensor,
    mask: Tensor | None = None,
    *,
    tau: float = 0.04,
    bound: Tensor | float | None = None,
) -> Tensor:
    """``J = rho A``, and 0 for the outliers of the minibatch (M2PO, arXiv 2510.01161, Algorithm 1).

    Among elements that moved the way their advantage points, those with the largest ``(log rho)^2`` are left out, as
    many as it takes for the mean of the others to be at most ``tau``. AReaL ranks all elements, whichever way they
    moved; this is the paper's rule, and that of its authors' code.

    Args:
        log_prob, old_log_prob, advantage, mask: See the table in :mod:`r2vpo.objectives`.
        tau: Largest mean of ``(log rho)^2``.
        bound: Largest ``(log rho)^2`` that stays, from :func:`m2po_bound` on the whole minibatch; None takes these
            elements for the whole.
    """
    _, log_ratio, advantage = prepared(log_prob, old_log_prob, advantage, mask)
    if bound is None:
        bound = m2po_bound(log_ratio.detach(), advantage, tau=tau)
    outlier = _outward(log_ratio, advantage) & (log_ratio.double().square() > bound)
    return masked_loss((clamped_ratio(log_ratio) * advantage).masked_fill(outlier, 0.0), mask)


def m2po_bound(log_ratio: Tensor, advantage: Tensor, *, tau: float) -> Tensor:
    """Largest ``(log rho)^2`` that :func:`m2po` keeps: a scalar in float64, infinite where all may stay.

    Rounding differs with the cut of the minibatch, and must not decide. So what has not moved is not counted, of equal
    ones none or all are kept, and the bound is halfway between the last one kept and the first one left out.

    Args:
        log_ratio, advantage: Of every unmasked element of the minibatch; same shape, any order.
        tau: Largest mean of ``(log rho)^2``.
    """
    squares = log_ratio.double().square()
    counted = _outward(log_ratio, advantage) & (squares > _UNMOVED)
    squares = squares.masked_fill(~counted, torch.inf).flatten()
    squares = torch.cat([squares, squares.new_full((1,), torch.inf)]).sort().values
    means = squares.cumsum(0) / torch.arange(1, len(squares) + 1, device=squares.device)
    first_out = squares.masked_fill(means <= tau, torch.inf).amin()
    last_in = squares.masked_fill(squares >= first_out * _EQUAL, 0.0).amax()
    return 0.5 * (last_in + first_out)


def drpo(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, mask: Tensor | None = None, *, delta: float = 12.5
) -> Tensor:
    """``J = rho A - abs(A) pi_off (rho - 1)^2 / (2 delta)`` (DRPO, arXiv 2606.09821, Eq. 8; the authors' UniRL).

    Its weight is ``rho A (1 -+ abs(pi - pi_off) / delta)``, below ``rho A`` where the ratio moved the way its advantage
    points: :func:`r2vpo.objectives.spo` with an epsilon of ``delta / pi_off`` for each element.

    Args:
        log_prob, old_log_prob, advantage, mask: See the table in :mod:`r2vpo.objectives`.
        delta: The change of probability at which the weight turns round; above 1, as in the paper's experiments, it
            only ever shrinks.
    """
    _, log_ratio, advantage = prepared(log_prob, old_log_prob, advantage, mask)
    ratio = clamped_ratio(log_ratio)
    curvature = advantage.abs() * kept(old_log_prob, mask).clamp(max=0.0).exp() / (2.0 * delta)
    return masked_loss(ratio * advantage - curvature * (ratio - 1.0).square(), mask)


def vespo(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantage: Tensor,
    mask: Tensor | None = None,
    *,
    k_pos: float = 2.0,
    lam_pos: float = 3.0,
    k_neg: float = 3.0,
    lam_neg: float = 2.0,
) -> Tensor:
    """``J = c log pi`` with ``c = W^k exp(lam (1 - W)) A`` (VESPO, arXiv 2602.10693; TRL: ``vespo``).

    W is the product of the ratios of a sequence, and c a constant. TRL's constant ``exp(lam)`` makes c equal to A where
    W = 1.

    Args:
        log_prob, old_log_prob, advantage, mask: See the table in :mod:`r2vpo.objectives`.
        k_pos, lam_pos: k and lam where A >= 0; the weight is highest at W = k / lam.
        k_neg, lam_neg: The same where A < 0.
    """
    log_prob, log_ratio, advantage = prepared(log_prob, old_log_prob, advantage, mask)
    each = log_ratio.detach().clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    log_weight = over_sequence(each, mask, mean=False).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    k, lam = (
        torch.full_like(advantage, negative).masked_fill(advantage >= 0, positive)
        for positive, negative in ((k_pos, k_neg), (lam_pos, lam_neg))
    )
    kernel = (k * log_weight + lam * (1.0 - log_weight.exp())).exp()
    return masked_loss(kernel * advantage * log_prob, mask)


def asymre(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, mask: Tensor | None = None, *, shift: float = 0.1
) -> Tensor:
    """``J = (A + shift) log pi``, without a ratio (AsymRE, arXiv 2506.20520; Trinity-RFT: ``asymre``).

    A baseline below the mean reward: the paper's ``V = mean + dV`` with ``dV = -shift``. Its rewards are not divided by
    their standard deviation; where advantages are, the shift is in that unit.

    Args:
        log_prob, old_log_prob, advantage, mask: See the table in :mod:`r2vpo.objectives`.
        shift: At least 0; larger values learn less from failures.
    """
    log_prob, _, advantage = prepared(log_prob, old_log_prob, advantage, mask)
    return masked_loss((advantage + shift) * log_prob, mask)


def log2(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, mask: Tensor | None = None, *, beta: float = 0.1
) -> Tensor:
    """``J = A log pi - beta (log rho)^2 / 2`` (DRO, arXiv 2405.19107, and Kimi k1.5, 2501.12599; verl: ``dro``).

    Both papers take log rho over whole sequences, verl over each token, as here: the brake is then the same for short
    and for long completions.

    Args:
        log_prob, old_log_prob, advantage, mask: See the table in :mod:`r2vpo.objectives`.
        beta: Above 0; verl has no default, this one is ours.
    """
    log_prob, log_ratio, advantage = prepared(log_prob, old_log_prob, advantage, mask)
    penalty = log_ratio.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).square()
    return masked_loss(advantage * log_prob - 0.5 * beta * penalty, mask)


def prepared(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs, log-ratios and advantages with 0 wherever the mask is False."""
    if not (log_prob.shape == old_log_prob.shape == advantage.shape):
        shapes = f"{tuple(log_prob.shape)}, {tuple(old_log_prob.shape)}, {tuple(advantage.shape)}"
        raise ValueError(f"log_prob, old_log_prob and advantage must have one shape, got {shapes}")
    if mask is not None and mask.shape != log_prob.shape:
        raise ValueError(f"mask has shape {tuple(mask.shape)}, log_prob {tuple(log_prob.shape)}")
    log_prob, old_log_prob, advantage = (kept(x, mask) for x in (log_prob, old_log_prob, advantage))
    return log_prob, log_prob - old_log_prob, advantage


def clamped_ratio(log_ratio: Tensor) -> Tensor:
    """rho, with no gradient where its logarithm is beyond the bound."""
    return log_ratio.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()


def over_sequence(log_ratio: Tensor, mask: Tensor | None, *, mean: bool) -> Tensor:
    """Sum, or mean over the unmasked, of log-ratios that are 0 where masked; each token gets its sequence's."""
    if log_ratio.ndim < 2:
        return log_ratio
    total = log_ratio.sum(dim=-1, keepdim=True)
    if mean:
        count = log_ratio.shape[-1] if mask is None else mask.sum(dim=-1, keepdim=True).clamp(min=1)
        total = total / count
    return total.expand_as(log_ratio)


def kept(values: Tensor, mask: Tensor | None) -> Tensor:
    """0 where the mask is False."""
    # Selecting before any arithmetic keeps a NaN in padding out of the gradient; multiplying by 0 would not.
    return values if mask is None else torch.where(mask.bool(), values, 0.0)


def masked_loss(surrogate: Tensor, mask: Tensor | None) -> Tensor:
    """-J, and 0 where the mask is False."""
    return -kept(surrogate, mask)


def _outward(log_ratio: Tensor, advantage: Tensor) -> Tensor:
    """Where the ratio has moved the way the advantage points; PPO's clip acts there alone."""
    return advantage * log_ratio.detach() > 0
