"""Training curves of control runs, from their metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from r2vpo.runs.plotting import PlottedRun, draw_delta, load_run, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = (
    ("return", "mean return (points: evaluated, dashed: sampled, star: best)"),
    ("ratio_variance", "ratio variance  E[(ρ-1)²]"),
    ("lam", "λ"),
    ("ess", "effective sample size / N"),
    ("max_ratio", "largest ratio"),
    ("entropy", "policy entropy (nats)"),
)
"""Metrics of a control run that are drawn, with their titles."""


def write_figures(run_dirs: Sequence[str | Path], output: Path) -> list[Path]:
    """All figures of control runs: the training curves; see :func:`plot_runs`."""
    return [plot_runs(run_dirs, output)]


def plot_runs(run_dirs: Sequence[str | Path], output: str | Path) -> Path:
    """Draw the training curves of one or more runs into one PNG.

    Args:
        run_dirs: Run directories with a metrics file.
        output: The picture to write.

    Raises:
        RunDirectoryError: A folder holds no run or no metrics yet.
    """
    runs = [load_run(run_dir) for run_dir in run_dirs]
    figure, axes = panel_figure()
    for i, run in enumerate(runs):
        for axis, (name, _) in zip(axes, PANELS, strict=True):
            steps, values = run.series(name)
            if len(steps):
                axis.plot(steps, values, color=f"C{i}", label=_label(run), linewidth=1.4)
        for kind, style in (("mean", "o-"), ("mean_stochastic", "o--")):
            axes[0].plot(*run.series(f"eval_return_{kind}"), style, color=f"C{i}", markersize=3)
        steps, evaluated = run.series("eval_return_mean")
        if len(steps) > 1:
            best = int(np.argmax(evaluated))
            axes[0].plot(steps[best], evaluated[best], "*", color=f"C{i}", markersize=13, markeredgecolor="black")
    draw_delta(axes[1], runs)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", fontsize=8)
    return save_figure(figure, output)


def panel_figure() -> tuple[Figure, list[Axes]]:
    """A figure with an empty panel for each of :data:`PANELS`."""
    figure, axes = new_figure(2, 3, (13.0, 6.4))
    for axis, (name, title) in zip(axes.flat, PANELS, strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("environment steps")
        axis.ticklabel_format(axis="x", style="sci", scilimits=(0, 4))
        if name == "max_ratio":
            axis.set_yscale("log")
    return figure, list(axes.flat)


def _label(run: PlottedRun) -> str:
    described = [str(run.config[key]) for key in ("env", "objective", "algo") if key in run.config]
    seed = f"seed {run.config['seed']}" if "seed" in run.config else ""
    return f"{run.path.name}: {' '.join(described)} {seed}".strip()
