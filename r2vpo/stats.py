"""Means, interquartile means and bootstrap intervals over runs or problems (arXiv 2108.13264, which advises both)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 10_000
BOOTSTRAP_SEED = 0
"""Intervals are the same whenever they are computed from the same values."""
_VALUES_AT_ONCE = 10_000_000
"""Resampled values held in memory together."""


def interquartile_mean(values: Any, axis: int = -1) -> Any:
    """Mean of the middle half: a quarter of the values (rounded down) is dropped at each end."""
    from scipy import stats  # type: ignore[import-untyped]

    return stats.trim_mean(values, 0.25, axis=axis)


def bootstrap_interval(values: Sequence[float], statistic: Any = interquartile_mean) -> tuple[float, float]:
    """Percentile bootstrap interval (95 %) of a statistic over independent values.

    With one value, or equal ones, the interval is a point.

    Args:
        values: One a run, or one a problem.
        statistic: Function of an array and ``axis``.
    """
    from scipy import stats

    sample = np.asarray(values, dtype=float)
    if len(sample) < 2 or np.ptp(sample) == 0:
        return float(statistic(sample)), float(statistic(sample))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            (sample,),
            statistic,
            confidence_level=CONFIDENCE,
            n_resamples=RESAMPLES,
            batch=min(RESAMPLES, max(1, _VALUES_AT_ONCE // len(sample))),
            method="percentile",
            rng=np.random.default_rng(BOOTSTRAP_SEED),
        )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def summarise(values: Sequence[float]) -> dict[str, float | list[float]]:
    """Mean and IQM of one score per run, each with its 95 % bootstrap interval."""
    return {
        "mean": float(np.mean(values)),
        "mean_interval": list(bootstrap_interval(values, np.mean)),
        "iqm": float(interquartile_mean(values)),
        "iqm_interval": list(bootstrap_interval(values)),
    }
