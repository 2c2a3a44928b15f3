"""Metrics of a run, averaged over the windows that its learning curve has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def metric_traces(
    metrics: Sequence[dict[str, Any]], names: Sequence[str], total_steps: int, points: int
) -> dict[str, list[float | None]]:
    """Mean of each metric in each of ``points`` equal windows of steps.

    Args:
        metrics: Lines of metrics.jsonl; values that are missing or not finite do not count.
        names: Metrics to trace.
        total_steps: End of the last window; what a last rollout adds beyond it belongs to that window.
        points: How many windows; those of :meth:`r2vpo.control.curves.EpisodeLog.curve`.

    Returns:
        By name, a value for each window; None where nothing was recorded.
    """
    edges = np.linspace(0, total_steps, points + 1)
    windows: list[list[dict[str, Any]]] = [[] for _ in range(points)]
    for line in metrics:
        place = int(np.searchsorted(edges, line["step"], side="left")) - 1
        windows[min(max(place, 0), points - 1)].append(line)
    return {name: [_mean(window, name) for window in windows] for name in names}


def _mean(lines: Sequence[dict[str, Any]], name: str) -> float | None:
    values = [line[name] for line in lines if isinstance(line.get(name), int | float) and math.isfinite(line[name])]
    return float(np.mean(values)) if values else None
