"""Pictures of several runs: one setting over its seeds, and a comparison of algorithms on tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2vpo.control.experiments.summary import grouped
from r2vpo.control.pictures import PANELS, panel_figure
from r2vpo.errors import RunDirectoryError
from r2vpo.runs.directory import CONFIG, METRICS
from r2vpo.runs.plotting import PlottedRun, draw_band, draw_delta, load_run, new_figure, save_figure
from r2vpo.runs.workers import Line

_WINDOWS = 60
"""Points of an interquartile mean: the mean of each seed in as many equal windows of steps comes first."""
_FEW_TASKS = 3
"""That many panels have a row to themselves; more tasks share smaller ones."""


def write_figures(run_dirs: Sequence[str | Path], output: Path) -> list[Path]:
    """All figures of directories of several seeds; see :func:`plot_seeds`."""
    return [plot_seeds(run_dirs, output)]


def plot_seeds(parents: Sequence[str | Path], output: str | Path) -> Path:
    """Draw one or more directories of several seeds: a thin line a seed, their interquartile mean and its interval.

    Args:
        parents: Each holds ``seed0``, ``seed1``, ...; unfinished seeds are drawn as far as they got.
        output: The picture to write.

    Raises:
        RunDirectoryError: A directory holds no metrics yet, or a file is damaged.
    """
    figure, axes = panel_figure()
    drawn: list[PlottedRun] = []
    for i, parent in enumerate(parents):
        runs = _load_seeds(Path(parent))
        drawn += runs
        for axis, (name, _) in zip(axes, PANELS, strict=True):
            for run in runs:
                axis.plot(*run.series(name), color=f"C{i}", linewidth=0.7, alpha=0.35)
            draw_band(axis, *_windows(runs, name), f"C{i}", _seeds_label(Path(parent), runs), opacity=0.2)
    draw_delta(axes[1], drawn)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", fontsize=8)
    return save_figure(figure, output)


def _load_seeds(parent: Path) -> list[PlottedRun]:
    folders = [path.parent for path in parent.glob(f"seed*/{METRICS}") if (path.parent / CONFIG).is_file()]
    runs = [load_run(folder) for folder in folders if (folder / METRICS).stat().st_size]
    if not runs:
        raise RunDirectoryError(f"{parent} holds no metrics yet")
    return sorted(runs, key=lambda run: int(run.config["seed"]))


def _windows(runs: Sequence[PlottedRun], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean step in each of equal windows, ``[n]``, and the mean of each run there, ``[runs, n]``, or NaN."""
    last = max(run.metrics[-1]["step"] for run in runs)
    edges = np.linspace(0, last, min(_WINDOWS, max(len(run.metrics) for run in runs)) + 1)
    means = np.full((len(runs), len(edges) - 1), np.nan)
    places = (edges[:-1] + edges[1:]) / 2
    for row, run in zip(means, runs, strict=True):
        steps, values = run.series(name)
        window = np.clip(np.searchsorted(edges, steps, side="left") - 1, 0, len(row) - 1)
        for i in np.unique(window):
            row[i] = values[window == i].mean()
            # Not the middle: with one rollout a window, the mean would stand half a rollout before its seeds.
            places[i] = steps[window == i].mean()
    return places, means


def _seeds_label(parent: Path, runs: Sequence[PlottedRun]) -> str:
    config = runs[0].config
    described = " ".join(str(config[name]) for name in ("env", "objective", "algo") if name in config)
    drawn = f"interquartile mean of {len(runs)} seeds, its 95 % bootstrap interval, and each seed"
    return f"{parent.name}: {described}, {drawn}"


def plot_comparison(lines: Sequence[Line], output: Path) -> Path:
    """One panel a task: IQM over seeds and its bootstrap interval as a band.

    Of the evaluations while training where all lines of a band have the same, else of the training return.
    """
    from matplotlib.ticker import EngFormatter

    groups = grouped(lines)
    evaluated = all(_same_evaluations(runs) for runs in groups.values())
    envs = list(dict.fromkeys(env for env, _ in groups))
    labels = list(dict.fromkeys(label for _, label in groups))
    columns = len(envs) if len(envs) <= _FEW_TASKS else -(-len(envs) // _panel_rows(len(envs)))
    rows = -(-len(envs) // columns)
    width, height = (5.0, 4.0) if len(envs) <= _FEW_TASKS else (3.6, 2.9)
    legend_rows = -(-len(labels) // max(1, 2 * columns))
    figure, axes = new_figure(rows, columns, (width * columns, height * rows + 0.25 * legend_rows))
    handles: dict[str, Any] = {}
    for panel, (axis, env) in enumerate(zip(axes.flat, envs, strict=False)):
        for i, label in enumerate(labels):
            if (env, label) in groups:
                _draw(axis, groups[env, label], f"C{i % 10}", label, evaluated)
        axis.set_title(f"{env}, {_seeds_text([runs for (task, _), runs in groups.items() if task == env])}", fontsize=9)
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.tick_params(labelsize=8)
        if panel + columns >= len(envs):
            axis.set_xlabel("environment steps", fontsize=9)
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    for axis in axes.flat[len(envs) :]:
        axis.set_visible(False)
    figure.supylabel(f"{'return of the mean action' if evaluated else 'training return'}, IQM over seeds", fontsize=10)
    shown = [label for label in labels if label in handles]
    figure.legend([handles[label] for label in shown], shown, loc="outside lower center", ncols=2 * columns, fontsize=9)
    return save_figure(figure, output)


def _panel_rows(tasks: int) -> int:
    return max(1, round((tasks / 1.6) ** 0.5))


def _seeds_text(groups: Sequence[Sequence[Line]]) -> str:
    counts = sorted({len(runs) for runs in groups})
    if counts == [1]:
        return "1 seed"
    return f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def _same_evaluations(runs: Sequence[Line]) -> bool:
    return len({tuple(run.get("evaluation_steps", ())) for run in runs}) == 1 and "evaluation_steps" in runs[0]


def _draw(axis: Any, runs: Sequence[Line], color: str, label: str, evaluated: bool) -> None:
    places, values = ("evaluation_steps", "evaluation_returns") if evaluated else ("steps", "returns")
    returns = np.array([[np.nan if r is None else r for r in run[values]] for run in runs])
    draw_band(axis, np.array(runs[0][places]), returns, color, label)
