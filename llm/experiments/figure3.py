"""Figure 3 of arXiv 2601.03320 for any runs: accuracy and reward against rollouts, by method, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from r2vpo.llm.experiments.style import (
    GREY,
    Look,
    curve_of,
    finish_axis,
    group_runs,
    legend_handles,
    looks,
    smooth,
    smoothing_window,
)
from r2vpo.llm.models.tiny_names import is_tiny
from r2vpo.runs.plotting import PlottedRun, load_run, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONGEST_NAME = 32
_PANELS = (("accuracy_greedy", "greedy accuracy, held-out problems"), ("reward", "mean training reward"))


def draw_figure3(run_dirs: Sequence[str | Path], output: str | Path) -> Path:
    """One row for each model and dataset; a line is the mean over the seeds of a method, a band goes from the lowest
    to the highest of them.

    Raises:
        RunDirectoryError: A folder holds no run or no metrics yet.
    """
    rows: dict[tuple[str, str], list[PlottedRun]] = {}
    for run in map(load_run, run_dirs):
        task = str(run.config.get("model", "")), str(run.config.get("dataset", ""))
        rows.setdefault(task, []).append(run)
    groups = {task: group_runs(runs) for task, runs in rows.items()}
    styles = looks(list(dict.fromkeys(label for by_label in groups.values() for label in by_label)))
    figure, axes = new_figure(len(groups), 2, (11.0, 0.8 + 3.9 * len(groups)))
    for row, ((model, dataset), by_label) in enumerate(groups.items()):
        for axis, (name, title) in zip(axes[row], _PANELS, strict=True):
            for label, runs in by_label.items():
                _draw_group(axis, runs, name, styles[label])
            finish_axis(axis, _title(title, model, dataset))
            if not axis.lines:
                axis.text(0.5, 0.5, f"no {name} recorded", transform=axis.transAxes, ha="center", color=GREY)
    seeds = {label: max(len(by_label.get(label, [])) for by_label in groups.values()) for label in styles}
    handles = legend_handles({label: seeds_text(label, count) for label, count in seeds.items()}, styles)
    figure.legend(handles=handles, loc="outside lower center", fontsize=9, ncols=min(4, len(handles)))
    return save_figure(figure, output)


def mean_and_range(
    curves: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Steps, mean, lowest and highest of several curves, where all of them are known.

    Curves are interpolated to the steps of all; outside the steps that they share nothing is invented, so that the
    mean is over the same runs everywhere.

    Args:
        curves: Steps in rising order and values of each, ``[n_i]``, at least one value.

    Returns:
        Four arrays ``[m]``; empty where the curves share no step.
    """
    first, last = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    grid = np.unique(np.concatenate([steps for steps, _ in curves]))
    grid = grid[(grid >= first) & (grid <= last)]
    values = np.array([np.interp(grid, steps, value) for steps, value in curves])
    return grid, values.mean(axis=0), values.min(axis=0), values.max(axis=0)


def _title(title: str, model: str, dataset: str) -> str:
    """Model and dataset behind the title; a tiny model bears the name of its dataset, which is then said once."""
    task = " on ".join(dict.fromkeys(filter(None, (_short(model), _short(dataset)))))
    # A long name, such as that of a reasoning-gym task with its settings, would run into the title beside it.
    return title + ("\n" if len(task) > _LONGEST_NAME else ": ") + task if task else title


def _short(name: str) -> str:
    return name if is_tiny(name) else Path(name).name


def _draw_group(axis: Axes, runs: Sequence[PlottedRun], name: str, style: Look) -> None:
    curves = [(steps, values) for steps, values in (curve_of(run, name) for run in runs) if len(steps)]
    if name == "reward":
        curves = [(steps, smooth(values, smoothing_window(len(values)))) for steps, values in curves]
    if not curves:
        return
    steps, mean, low, high = mean_and_range(curves)
    if not len(steps):  # seeds that share no step, such as one that has only just started: each as it is
        for own_steps, values in curves:
            axis.plot(
                own_steps, values, linewidth=0.9, alpha=0.7, marker="." if len(values) == 1 else None, **style.line()
            )
        return
    axis.plot(steps, mean, linewidth=1.8, marker="o" if len(steps) == 1 else None, markersize=4, **style.line())
    if len(curves) > 1:
        axis.fill_between(steps, low, high, color=style.color, alpha=0.18, linewidth=0)


def seeds_text(label: str, seeds: int) -> str:
    """A label with the number of runs behind it."""
    return f"{label} ({seeds} seed{'s' if seeds > 1 else ''})"
