"""The dual variable lambda: how strongly the variance of the ratio is penalised.

Three rules, chosen by name:

- ``fixed``: lambda stays where it starts (the paper's default, 0.04).
- ``paper``: gradient descent on the dual (arXiv 2601.03320, Eq. 12),
  ``lambda <- max(0, lambda - eta (delta - E[(rho - 1)^2]))``.
- ``adaptive``: the same sign of correction, relative to delta and in the logarithm of lambda,
  ``log lambda <- log lambda + eta clip(E[(rho - 1)^2] / delta - 1, -1, 3)``. It is not in the paper. A relative
  step makes the time to reach delta independent of the scale of lambda and of delta; the bound on the error
  keeps one outlying minibatch from undoing the estimate of many.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from r2vpo.errors import ConfigError

DualRule = Literal["fixed", "paper", "adaptive"]
DUAL_RULES: tuple[str, ...] = get_args(DualRule)
DEFAULT_ETA = {"fixed": 0.0, "paper": 1e-3, "adaptive": 0.03}
"""Dual step size of each rule; the paper's is its own, the adaptive one is ours."""

ADAPTIVE_BOUNDS = (1e-3, 1e3)
"""Lambda under the adaptive rule stays within these, so that it can return within a few rollouts."""

_LARGEST_RELATIVE_ERROR = 3.0
SMALLEST_SHARE = 0.1
"""What :func:`signal_share` and a schedule leave of delta at the least: a policy that does not move at all finds its
first reward later, and a target that falls to nothing drives lambda to its bound."""


def joint_delta(per_dimension: float, dimensions: int) -> float:
    """Target for an action of several independent dimensions, from what each of them alone is allowed.

    The second moments of the ratios of independent dimensions multiply: ``1 + E[(rho - 1)^2]`` of the whole action is
    the product of the same of its dimensions. Hence ``delta = (1 + per_dimension)^dimensions - 1``: about
    ``dimensions * per_dimension``, and the same room to move for each joint whether a body has one or seventeen. It
    is not in the papers.

    Args:
        per_dimension: Target of one dimension, above 0.
        dimensions: Size of the action, at least 1.
    """
    return math.expm1(dimensions * math.log1p(per_dimension))


def signal_share(reward_std: float, advantage_std: float, floor: float) -> float:
    """Share of delta that advantages are worth: ``min(1, (reward_std / (floor * advantage_std))^2)``.

    An advantage is a discounted sum of rewards plus what the value function adds. Before the first reward is found it
    is the value function's noise alone, and standardising it hides that: the whole of delta would be spent on
    following noise. At a fixed price lambda the best ratio of a sample is ``1 + A / (2 lambda)`` (arXiv 2601.03320,
    Eq. 11), so the variance that is worth paying for falls with the square of that part of the advantages which rewards
    back. It has no unit, hence does not depend on how rewards are scaled. It is not in the papers.

    Args:
        reward_std: Standard deviation of the rewards' part of the advantages.
        advantage_std: Standard deviation of the advantages before they are standardised, in the same unit.
        floor: Quotient of the two where the share reaches 1; 0 means that it is 1 everywhere.

    Returns:
        At least :data:`SMALLEST_SHARE`.
    """
    if floor <= 0 or reward_std >= floor * advantage_std > 0:
        return 1.0
    return max(SMALLEST_SHARE, (reward_std / (floor * advantage_std)) ** 2) if advantage_std > 0 else SMALLEST_SHARE


class DualController:
    """Holds lambda and moves it after each gradient step.

    Args:
        lam: First value of lambda, at least 0 (above 0 for ``adaptive``).
        delta: Target of E[(rho - 1)^2], above 0. ``None`` means a fixed lambda.
        eta: Dual step size, above 0; ``None`` takes the rule's own default.
        rule: One of :data:`DUAL_RULES`; ``None`` is ``fixed`` without a delta and ``paper`` with one.

    Raises:
        ConfigError: A value outside its range, or a rule that needs a delta without one.
    """

    def __init__(
        self, lam: float = 0.04, delta: float | None = None, eta: float | None = None, rule: str | None = None
    ) -> None:
        rule = rule if rule is not None else ("fixed" if delta is None else "paper")
        if rule not in DUAL_RULES:
            raise ConfigError("dual", rule, f"one of {', '.join(DUAL_RULES)}")
        if not math.isfinite(lam) or lam < 0 or (rule == "adaptive" and lam == 0):
            allowed = "a finite number above 0" if rule == "adaptive" else "a finite number of at least 0"
            raise ConfigError("lam", lam, allowed)
        if rule != "fixed" and (delta is None or not math.isfinite(delta) or delta <= 0):
            raise ConfigError("delta", delta, f"a finite number above 0 for dual={rule!r}")
        if delta is not None and not (math.isfinite(delta) and delta > 0):
            raise ConfigError("delta", delta, "a finite number above 0, or None for a fixed lambda")
        if eta is not None and (not math.isfinite(eta) or eta <= 0):
            raise ConfigError("eta", eta, "a finite number above 0, or None for the rule's default")
        self.rule = rule
        self.lam = float(lam)
        self.delta = delta
        self.share = 1.0
        """Part of delta that is the target now, in (0, 1]; see :func:`signal_share`."""
        self.eta = DEFAULT_ETA[rule] if eta is None else float(eta)

    @property
    def target(self) -> float | None:
        """E[(rho - 1)^2] that lambda is steered to now; None where lambda is fixed."""
        return None if self.rule == "fixed" or self.delta is None else self.delta * self.share

    def update(self, ratio_variance: float) -> float:
        """Take one dual step and return the new lambda.

        Args:
            ratio_variance: E[(rho - 1)^2] over the samples of the gradient step. A non-finite value, which an
                overflowing ratio gives, counts as the largest error under ``adaptive`` and is left out under
                ``paper``, whose step has no bound.
        """
        target = self.target
        if target is None:
            return self.lam
        if self.rule == "paper":
            if math.isfinite(ratio_variance):
                self.lam = max(0.0, self.lam - self.eta * (target - ratio_variance))
            return self.lam
        error = ratio_variance / target - 1.0
        bounded = min(error, _LARGEST_RELATIVE_ERROR) if math.isfinite(error) else _LARGEST_RELATIVE_ERROR
        lowest, highest = ADAPTIVE_BOUNDS
        self.lam = min(highest, max(lowest, self.lam * math.exp(self.eta * bounded)))
        return self.lam

    def state_dict(self) -> dict[str, Any]:
        """Everything that :meth:`load_state_dict` needs."""
        return {"rule": self.rule, "lam": self.lam, "delta": self.delta, "eta": self.eta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.rule, self.lam, self.delta, self.eta = (state[key] for key in ("rule", "lam", "delta", "eta"))
