"""pass@k from counts, and its interval over problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from r2vpo.stats import bootstrap_interval


@dataclass(frozen=True)
class Estimate:
    """A mean over problems with its 95 % bootstrap interval over problems."""

    value: float | None
    """None when no problem counts."""
    low: float | None
    high: float | None
    problems: int
    """Problems the mean is over."""


def pass_at_k(samples: int, solved: int, k: int) -> float:
    """Unbiased probability that at least one of ``k`` answers drawn without replacement is right.

    ``1 - C(n - c, k) / C(n, k)`` (arXiv 2107.03374, Eq. 1) as ``1 - prod_{i=n-c+1}^{n} (1 - k / i)``, summed as
    logarithms: no binomial coefficient overflows, and a value near 0 keeps its digits. With k = 1 it is c / n.

    Args:
        samples: Answers sampled, n.
        solved: Right ones among them, c.
        k: At most ``samples``.

    Raises:
        ValueError: Counts for which it is not defined.
    """
    if not 0 <= solved <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@k needs 0 <= solved <= samples and 1 <= k <= samples, got {solved=}, {samples=}, {k=}")
    if samples - solved < k:
        return 1.0
    return float(-np.expm1(np.log1p(-k / np.arange(samples - solved + 1, samples + 1)).sum()))


def estimate_pass_at_k(samples: Sequence[int], solved: Sequence[int], k: int) -> Estimate:
    """Mean pass@k over problems; problems with fewer than ``k`` answers are left out.

    Args:
        samples: Answers with a verdict, ``[problems]``.
        solved: Right ones among them, ``[problems]``.
        k: Answers drawn.
    """
    return estimate_mean([pass_at_k(n, c, k) for n, c in zip(samples, solved, strict=True) if n >= k])


def estimate_mean(values: Sequence[float] | NDArray[np.floating]) -> Estimate:
    """Mean of one value a problem, with its interval; a point when all values are equal."""
    if not len(values):
        return Estimate(None, None, None, 0)
    low, high = bootstrap_interval(values, np.mean)
    return Estimate(float(np.mean(values)), low, high, len(values))
