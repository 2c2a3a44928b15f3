"""Surrogate objectives, one function each; nothing else in the library computes a policy loss.

=================  ==========================================================  ================
symbol             meaning                                                     shape
=================  ==========================================================  ================
``log_prob``       log pi_theta(a|s), carries the gradient                     ``[N]`` or ``[B, T]``
``old_log_prob``   log pi_off(a|s), stored when the action was sampled         same
``advantage``      A; for language models broadcast to the tokens              same
``mask``           True (or 1) where a sample counts                           same
rho                exp(log_prob - old_log_prob), the policy ratio              same
=================  ==========================================================  ================

Every function returns the loss ``-J`` element by element, to be minimised. Nothing is reduced here: the caller
sums and divides by the global count, so splitting a batch into micro-batches cannot change the result. Masked
elements have loss 0 and gradient 0 whatever they contain. Log-ratios are clamped to +-20 so that the ratio is
finite; no gradient flows through the ratio beyond that. Nothing else is altered silently. Log-probs are float32 or
float64: half precision cannot hold the squares of such ratios.

``[N]`` holds one action per element (continuous control); ``[B, T]`` holds B sequences of T tokens. Objectives on
the sequence ratio treat each element of ``[N]`` as a sequence of length one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from r2vpo.errors import ConfigError
from r2vpo.surrogates import (
    asymre,
    clamped_ratio,
    dppo,
    drpo,
    log2,
    m2po,
    m2po_bound,
    masked_loss,
    over_sequence,
    prepared,
    sapo,
    vespo,
)

SurrogateFunction = Callable[..., Tensor]


def r2vpo(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, mask: Tensor | None = None, *, lam: float = 0.04
) -> Tensor:
    """Ratio-variance penalty: ``J = rho A - lam (rho - 1)^2`` (arXiv 2601.03320, Eq. 10, without its constant).

    Its gradient weight is ``(A - 2 lam (rho - 1)) rho`` (Eq. 11): the regularized advantage times the ratio.

    Args:
        log_prob, old_log_prob, advantage, mask: See the table at the top of this module.
        lam: The dual variable lambda, at least 0. Larger values hold the policy closer to the data.
    """
    _, log_ratio, advantage = prepared(log_prob, old_log_prob, advantage, mask)
    ratio = clamped_ratio(log_ratio)
    return masked_loss(ratio * advantage - lam * (ratio - 1.0).square(), mask)


def onesided(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, mask: Tensor | None = None, *, lam: float = 0.04
) -> Tensor:
    """:func:`r2vpo` with a brake only on the way out: the penalty never turns a sample's gradient round. Ours.

    Where the ratio has moved the way its advantage points, ``A (rho - 1) > 0``, the gradient weight is
    ``rho A max(0, 1 - 2 lam abs(rho - 1) / abs(A))``, which is Eq. 11 up to where it would change its sign and 0 from
    there on; elsewhere it is ``rho A``. The value is the integral of that weight, 0 where A = 0.

    Args:
        log_prob, old_log_prob, advantage, mask: See the table at the top of this module.
        lam: The dual variable lambda, at least 0. Larger values brake earlier.
    """
    _, log_ratio, advantage = prepared(log_prob, old_log_prob, advantage, mask)
    ratio = clamped_ratio(log_ratio)
    excess = ratio - 1.0
    braked = ratio * advantage - lam * excess.square()
    stopped = advantage + advantage.square() / (4.0 * lam)  # the braked value at its highest, A = 2 lam (rho - 1)
    outward = torch.where(2.0 * lam * excess.abs() < advantage.abs(), braked, stopped)
    return masked_loss(torch.where(advantage * excess > 0, outward, ratio * advantage), mask)


def ppo_clip(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, mask: Tensor | None = None, *, eps: float = 0.2
) -> Tensor:
    """``J = min(rho A, clip(rho, 1 - eps, 1 + eps) A)`` (PPO, arXiv 1707.06347, Eq. 7; also GRPO's surrogate)."""
    return clip_higher(log_prob, old_log_prob, advantage, mask, eps_low=eps, eps_high=eps)


def clip_higher(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantage: Tensor,
    mask: Tensor | None = None,
    *,
    eps_low: float = 0.2,
    eps_high: float = 0.28,
) -> Tensor:
    """PPO's surrogate with the clip range ``[1 - eps_low, 1 + eps_high]`` (DAPO, arXiv 2503.14476, Eq. 8)."""
    _, log_ratio, advantage = prepared(log_prob, old_log_prob, advantage, mask)
    return masked_loss(_pessimistic(clamped_ratio(log_ratio), advantage, eps_low, eps_high), mask)


def gppo(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantage: Tensor,
    mask: Tensor | None = None,
    *,
    eps_low: float = 0.2,
    eps_high: float = 0.28,
) -> Tensor:
    """Clipping that keeps a bounded gradient (Klear-Reasoner, arXiv 2508.07629).

    The value is that of :func:`clip_higher`, and so is the weight of ``grad log pi``: where clipping would send a
    zero gradient, it is ``(1 + eps_high) A`` for A > 0 and ``(1 - eps_low) A`` for A < 0.
    """
    log_prob, log_ratio, advantage = prepared(log_prob, old_log_prob, advantage, mask)
    weight = _pessimistic(clamped_ratio(log_ratio.detach()), advantage, eps_low, eps_high)
    return masked_loss(weight * (1.0 + log_prob - log_prob.detach()), mask)


def topr(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantage: Tensor,
    mask: Tensor | None = None,
    *,
    level: str = "token",
) -> Tensor:
    """Tapered off-policy REINFORCE (arXiv 2503.14286): ``J = c log pi`` with a constant weight ``c``.

    ``c = A`` where A >= 0, without any ratio; ``c = clip(rho, 0, 1) A`` where A < 0.

    Args:
        log_prob, old_log_prob, advantage, mask: See the table at the top of this module.
        level: ``"sequence"`` multiplies the ratios of a sequence, as in the paper; ``"token"`` does not.
    """
    log_prob, log_ratio, advantage = prepared(log_prob, old_log_prob, advantage, mask)
    if level == "sequence":
        log_ratio = over_sequence(log_ratio, mask, mean=False)
    elif level != "token":
        raise ConfigError("level", level, "'token' or 'sequence'")
    tapered = clamped_ratio(log_ratio.detach()).clamp(max=1.0)
    weight = torch.where(advantage >= 0, advantage, tapered * advantage)
    return masked_loss(weight * log_prob, mask)


def spo(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, mask: Tensor | None = None, *, eps: float = 0.2
) -> Tensor:
    """``J = rho A - abs(A) (rho - 1)^2 / (2 eps)`` (Simple Policy Optimization, arXiv 2401.16025).

    It is :func:`r2vpo` with a lambda of its own for every sample, ``abs(A) / (2 eps)``.
    """
    _, log_ratio, advantage = prepared(log_prob, old_log_prob, advantage, mask)
    ratio = clamped_ratio(log_ratio)
    return masked_loss(ratio * advantage - advantage.abs() * (ratio - 1.0).square() / (2.0 * eps), mask)


def cispo(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, mask: Tensor | None = None, *, cap: float = 5.0
) -> Tensor:
    """``J = c log pi`` with the constant weight ``c = min(rho, cap) A`` (MiniMax-M1, arXiv 2506.13585, Eq. 4)."""
    log_prob, log_ratio, advantage = prepared(log_prob, old_log_prob, advantage, mask)
    weight = clamped_ratio(log_ratio.detach()).clamp(max=cap) * advantage
    return masked_loss(weight * log_prob, mask)


def gspo(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantage: Tensor,
    mask: Tensor | None = None,
    *,
    eps_low: float = 3e-4,
    eps_high: float = 4e-4,
) -> Tensor:
    """PPO's surrogate on the length-normalised sequence ratio ``exp(mean_t log rho_t)`` (GSPO, arXiv 2507.18071).

    Every token of a sequence holds the value of its sequence.
    """
    _, log_ratio, advantage = prepared(log_prob, old_log_prob, advantage, mask)
    ratio = clamped_ratio(over_sequence(log_ratio, mask, mean=True))
    return masked_loss(_pessimistic(ratio, advantage, eps_low, eps_high), mask)


def none(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, mask: Tensor | None = None) -> Tensor:
    """``J = rho A``: importance weighting and no trust region at all."""
    _, log_ratio, advantage = prepared(log_prob, old_log_prob, advantage, mask)
    return masked_loss(clamped_ratio(log_ratio) * advantage, mask)


OBJECTIVES: dict[str, SurrogateFunction] = {
    function.__name__: function
    for function in (
        *(r2vpo, onesided, ppo_clip, clip_higher, gppo, topr, spo, cispo, gspo, none),
        *(sapo, dppo, m2po, drpo, vespo, asymre, log2),
    )
}
"""Every objective by the name that :func:`make_objective` and the command line take."""

MEASURED: dict[str, dict[str, Callable[..., Any]]] = {"m2po": {"bound": m2po_bound}}
"""Keyword arguments of objectives that depend on the whole minibatch, and the function that measures each.

It is given ``log_ratio`` and ``advantage`` of every unmasked element, ``[n]``, and the objective's hyperparameters.
"""

OF_PROBABILITIES = ("dppo", "drpo")
"""Objectives that read ``exp(log_prob)`` as a probability, which the density of a continuous action is not."""


@dataclass(frozen=True)
class Objective:
    """An objective with its hyperparameters bound; call it like the functions above."""

    name: str
    function: SurrogateFunction
    hyperparameters: dict[str, Any] = field(default_factory=dict)

    @property
    def uses_dual(self) -> bool:
        """Whether lambda enters this objective."""
        return "lam" in hyperparameter_defaults(self.name)

    @property
    def needs_minibatch(self) -> bool:
        """Whether an element's loss depends on the rest of its minibatch (see :meth:`measured`)."""
        return self.name in MEASURED

    def measured(self, log_ratio: Tensor, advantage: Tensor) -> dict[str, Any]:
        """What calls on parts of a minibatch have to be given so that together they are the loss of the whole.

        Without it, a call takes the elements that it gets for the whole minibatch.

        Args:
            log_ratio, advantage: Of every unmasked element of the minibatch, in any order, ``[n]``.
        """
        settings = {**hyperparameter_defaults(self.name), **self.hyperparameters}
        return {
            name: function(log_ratio, advantage, **settings) for name, function in MEASURED.get(self.name, {}).items()
        }

    def __call__(
        self,
        log_prob: Tensor,
        old_log_prob: Tensor,
        advantage: Tensor,
        mask: Tensor | None = None,
        **overrides: Any,
    ) -> Tensor:
        """Elementwise loss; ``overrides`` replace bound hyperparameters, as the dual variable does at each step."""
        return self.function(log_prob, old_log_prob, advantage, mask, **{**self.hyperparameters, **overrides})


def make_objective(name: str, **hyperparameters: Any) -> Objective:
    """Look an objective up and bind its hyperparameters.

    Args:
        name: A key of :data:`OBJECTIVES`.
        hyperparameters: Replacements for the defaults of that function.

    Raises:
        ConfigError: Unknown name, unknown hyperparameter, or a value outside its range.
    """
    if name not in OBJECTIVES:
        raise ConfigError("objective", name, f"one of {', '.join(OBJECTIVES)}")
    known = hyperparameter_defaults(name)
    for key, value in hyperparameters.items():
        if key not in known:
            allowed = f"left out; {name} takes {', '.join(known) or 'no hyperparameters'}"
            raise ConfigError(key, value, allowed)
        _check_range(key, value)
    return Objective(name, OBJECTIVES[name], dict(hyperparameters))


def hyperparameter_defaults(name: str) -> dict[str, Any]:
    """Hyperparameters of an objective and their default values; what is measured at each step is none."""
    parameters = inspect.signature(OBJECTIVES[name]).parameters.values()
    measured = MEASURED.get(name, {})
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in measured}


_CHOICES = {"level": ("token", "sequence"), "divergence": ("tv", "kl")}
_FROM_ZERO = ("lam", "shift")


def _check_range(key: str, value: Any) -> None:
    if key in _CHOICES:
        if value not in _CHOICES[key]:
            raise ConfigError(key, value, " or ".join(map(repr, _CHOICES[key])))
        return
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not (0 <= value < float("inf")) or (value == 0 and key not in _FROM_ZERO):
        raise ConfigError(key, value, "a finite number " + ("of at least 0" if key in _FROM_ZERO else "above 0"))


def _pessimistic(ratio: Tensor, advantage: Tensor, eps_low: float, eps_high: float) -> Tensor:
    clipped = ratio.clamp(1.0 - eps_low, 1.0 + eps_high)
    return torch.minimum(ratio * advantage, clipped * advantage)
