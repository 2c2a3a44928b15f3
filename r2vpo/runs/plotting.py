"""What pictures of runs share: reading metrics, figures, bands over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from r2vpo.errors import RunDirectoryError
from r2vpo.runs.directory import CONFIG, read_metrics
from r2vpo.runs.stats import bootstrap_interval, interquartile_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class PlottedRun:
    """What the figures of a run are drawn from."""

    path: Path
    config: dict[str, Any]
    """Empty where there is no config.json."""
    metrics: list[dict[str, Any]]
    """Lines of metrics.jsonl, at least one."""

    def series(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Steps and values of one metric, ``[n]`` each, where it is a finite number."""
        points = [
            (line["step"], line[name])
            for line in self.metrics
            if isinstance(line.get(name), int | float) and math.isfinite(line[name])
        ]
        values = np.array(points, dtype=np.float64).reshape(-1, 2)
        return values[:, 0], values[:, 1]


def load_run(run_dir: str | Path) -> PlottedRun:
    """Read configuration and metrics of a run.

    Raises:
        RunDirectoryError: There are no metrics, or a file is damaged.
    """
    path = Path(run_dir)
    try:
        metrics = read_metrics(path)
        config = json.loads((path / CONFIG).read_text()) if (path / CONFIG).exists() else {}
    except json.JSONDecodeError as error:
        raise RunDirectoryError(f"{run_dir} is damaged: {error}") from error
    if not metrics:
        raise RunDirectoryError(f"{run_dir} holds no metrics yet")
    return PlottedRun(path, config, metrics)


def draw_band(
    axis: Axes, steps: NDArray[Any], values: NDArray[np.float64], color: str, label: str, opacity: float = 0.15
) -> None:
    """Draw the interquartile mean over runs, with its bootstrap interval as a band.

    Args:
        axis: Panel to draw into.
        steps: ``[n]``.
        values: ``[runs, n]``; columns with a NaN are left out.
        color: Of the line and the band.
        label: For the legend.
        opacity: Of the band.
    """
    known = ~np.isnan(values).any(axis=0)
    steps, values = steps[known], values[:, known]
    if not len(steps):
        return
    axis.plot(steps, interquartile_mean(values, axis=0), color=color, label=label, linewidth=1.6)
    band = np.array([bootstrap_interval(column) for column in values.T])
    axis.fill_between(steps, band[:, 0], band[:, 1], color=color, alpha=opacity, linewidth=0)


def new_figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, Any]:
    """A figure and its grid of axes, without touching any interactive state; size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    return figure, axes


def save_figure(figure: Figure, output: str | Path) -> Path:
    """Write a figure as PNG, into a folder that is made when missing.

    Raises:
        RunDirectoryError: It cannot be written.
    """
    output = Path(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=110, format="png")
    except OSError as error:
        raise RunDirectoryError(f"{output} cannot be written: {error.strerror}") from error
    return output


def draw_delta(axis: Axes, runs: Sequence[PlottedRun]) -> None:
    """Mark delta in a panel of the ratio variance, where lambda follows it."""
    configs = [run.config for run in runs]
    for delta in {c["delta"] for c in configs if c.get("dual") not in (None, "fixed") and c.get("delta")}:
        axis.axhline(delta, color="black", linewidth=0.8, linestyle=":")
        axis.annotate("δ", (0.0, delta), xycoords=("axes fraction", "data"), fontsize=9)
