"""Statistics over runs or problems: interquartile means, bootstrap intervals, aggregates over tasks.

Source: arXiv 2108.13264, which advises them; sections in parentheses are its.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 10_000
SEED = 0
"""Intervals are the same whenever they are computed from the same values."""
_VALUES_AT_ONCE = 10_000_000
"""Resampled values held in memory together."""

Scores = Sequence[NDArray[np.float64]]
"""``[..., runs]`` of each task."""


def interquartile_mean(values: ArrayLike, axis: int = -1) -> NDArray[np.float64]:
    """Mean of the middle half: a quarter of the values (rounded down) is dropped at each end (4.3).

    Args:
        values: ``[..., n]``.
        axis: That of the n.

    Returns:
        ``[...]``; NaN where any of the values is.
    """
    array = np.sort(np.moveaxis(np.asarray(values, dtype=np.float64), axis, -1), axis=-1)
    count = array.shape[-1]
    cut = count // 4
    # NaN is sorted to the end.
    return np.asarray(np.where(np.isnan(array[..., -1]), np.nan, array[..., cut : count - cut].mean(axis=-1)))


def bootstrap_interval(values: Sequence[float], statistic: Any = interquartile_mean) -> tuple[float, float]:
    """Percentile bootstrap interval (95 %) of a statistic over independent values.

    With one value, or equal ones, the interval is a point.

    Args:
        values: One a run, or one a problem.
        statistic: Function of an array and ``axis``.
    """
    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < 2 or np.ptp(sample) == 0:
        return float(statistic(sample)), float(statistic(sample))
    rng, at_once = np.random.default_rng(SEED), max(1, _VALUES_AT_ONCE // len(sample))
    drawn = [
        statistic(*resample([sample], min(at_once, RESAMPLES - done), rng), axis=-1)
        for done in range(0, RESAMPLES, at_once)
    ]
    low, high = percentile_interval(np.concatenate(drawn))
    return float(low), float(high)


def summarise(values: Sequence[float]) -> dict[str, float | list[float]]:
    """Mean and IQM of one score per run, each with its 95 % bootstrap interval."""
    return {
        "mean": float(np.mean(values)),
        "mean_interval": list(bootstrap_interval(values, np.mean)),
        "iqm": float(interquartile_mean(values)),
        "iqm_interval": list(bootstrap_interval(values)),
    }


def aggregate_iqm(scores: Scores) -> NDArray[np.float64]:
    """Interquartile mean over the pooled runs of all tasks (4.3).

    Args:
        scores: ``[..., runs]`` of each task; a task with more runs than another counts for more.

    Returns:
        ``[...]``.
    """
    return interquartile_mean(np.concatenate(list(scores), axis=-1))


def aggregate_mean(scores: Scores) -> NDArray[np.float64]:
    """Mean over tasks of the mean over runs (4.3); ``[..., runs]`` of each task to ``[...]``."""
    return np.asarray(_task_means(scores).mean(axis=-1))


def aggregate_median(scores: Scores) -> NDArray[np.float64]:
    """Median over tasks of the mean over runs (4.3); ``[..., runs]`` of each task to ``[...]``."""
    return np.asarray(np.median(_task_means(scores), axis=-1))


def optimality_gap(scores: Scores, gamma: float = 1.0) -> NDArray[np.float64]:
    """How far runs stay below ``gamma`` on average, those above it counting as 0 (4.3); lower is better.

    Args:
        scores: ``[..., runs]`` of each task; every task counts the same.
        gamma: The score beyond which more is worth nothing.

    Returns:
        ``[...]``.
    """
    return np.asarray(gamma - _task_means([np.minimum(task, gamma) for task in scores]).mean(axis=-1))


def performance_profile(scores: Scores, taus: ArrayLike) -> NDArray[np.float64]:
    """Fraction of runs with a score above each of ``taus``, the mean over tasks (run-score distribution, 4.2).

    Args:
        scores: ``[..., runs]`` of each task.
        taus: ``[n]``.

    Returns:
        ``[..., n]``.
    """
    above = [_task_means([task > tau for task in scores]).mean(axis=-1) for tau in np.asarray(taus)]
    return np.stack(above, axis=-1)


def improvement_probabilities(x: Scores, y: Scores) -> NDArray[np.float64]:
    """P(X > Y) on each task, ties counting half: the Mann-Whitney U over the number of pairs (4.3).

    Args:
        x: ``[..., runs]`` of each task.
        y: ``[..., other runs]`` of the same tasks.

    Returns:
        ``[..., tasks]``.
    """
    tasks = []
    for a, b in zip(x, y, strict=True):
        difference = a[..., :, None] - b[..., None, :]
        tasks.append((0.5 + 0.5 * np.sign(difference)).mean(axis=(-2, -1)))
    return np.stack(tasks, axis=-1)


def probability_of_improvement(x: Scores, y: Scores) -> NDArray[np.float64]:
    """Mean over tasks of :func:`improvement_probabilities` (4.3); ``[...]``."""
    return np.asarray(improvement_probabilities(x, y).mean(axis=-1))


def resample(scores: Scores, resamples: int, rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """Draw runs with replacement within each task, the strata of the bootstrap (4.1).

    Args:
        scores: ``[runs]`` of each task.
        resamples: How many.
        rng: Where the draws come from.

    Returns:
        ``[resamples, runs]`` of each task.
    """
    return [task[rng.integers(len(task), size=(resamples, len(task)))] for task in scores]


def stratified_interval(
    statistic: Callable[..., NDArray[np.float64]], arms: Sequence[Scores], resamples: int
) -> tuple[Any, Any]:
    """Percentile interval (95 %) of a statistic by the stratified bootstrap (4.1).

    Args:
        statistic: Function of one resampled ``[resamples, runs]`` list an arm; returns ``[resamples, ...]``.
        arms: Scores, ``[runs]`` of each task, of every algorithm that the statistic takes; drawn independently.
        resamples: How many.

    Returns:
        Lower and upper end, of the shape of the statistic.
    """
    rng = np.random.default_rng(SEED)
    return percentile_interval(statistic(*(resample(arm, resamples, rng) for arm in arms)))


def percentile_interval(values: ArrayLike, method: Any = "linear") -> tuple[Any, Any]:
    """The middle 95 % along the first axis; ``method`` is that of :func:`numpy.quantile`."""
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(np.asarray(values), [tail, 1.0 - tail], axis=0, method=method)
    return low, high


def resample_curves(curves: NDArray[np.float64], resamples: int) -> NDArray[np.float64]:
    """Interquartile means of the curves of seeds drawn with replacement, a seed's curve being drawn as a whole.

    Args:
        curves: ``[runs, n]``.
        resamples: How many.

    Returns:
        ``[resamples, n]``; NaN in every column that holds one.
    """
    draws = np.random.default_rng(SEED).integers(len(curves), size=(resamples, len(curves)))
    columns = [np.where(np.isnan(column).any(), np.nan, interquartile_mean(column[draws])) for column in curves.T]
    return np.stack(columns, axis=-1)


def steps_to_reach(steps: ArrayLike, curves: ArrayLike, level: float) -> NDArray[np.float64]:
    """First step at which a curve is at ``level`` or above.

    Args:
        steps: ``[n]``, ascending.
        curves: ``[..., n]``; a NaN is below every level.
        level: To be reached.

    Returns:
        ``[...]``; infinity where it never is.
    """
    reached = np.asarray(curves) >= level
    first = np.asarray(steps, dtype=np.float64)[reached.argmax(axis=-1)]
    return np.asarray(np.where(reached.any(axis=-1), first, np.inf))


def _task_means(scores: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    return np.stack([task.mean(axis=-1) for task in scores], axis=-1)
