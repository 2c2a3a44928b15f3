"""Pictures of runs, from their metrics files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from r2vpo.errors import RunDirectoryError
from r2vpo.run_directory import CONFIG, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = (
    ("return", "mean return, last 20 episodes"),
    ("ratio_variance", "ratio variance  E[(ρ-1)²]"),
    ("lam", "λ"),
    ("ess", "effective sample size / N"),
    ("max_ratio", "largest ratio"),
    ("entropy", "policy entropy (nats)"),
)


def plot_runs(run_dirs: Sequence[str | Path], output: str | Path) -> Path:
    """Draw the training curves of one or more runs into one PNG.

    Args:
        run_dirs: Run directories with a metrics file.
        output: The picture to write.

    Raises:
        RunDirectoryError: A folder holds no run or no metrics yet.
    """
    runs = [(Path(run_dir), _read(run_dir)) for run_dir in run_dirs]
    figure, axes = new_figure(2, 3, (13.0, 6.4))
    for run_dir, metrics in runs:
        label = _label(run_dir)
        for axis, (name, title) in zip(axes.flat, _PANELS, strict=True):
            points = [(line["step"], line[name]) for line in metrics if line.get(name) is not None]
            if points:
                axis.plot(*np.transpose(points), label=label, linewidth=1.4)
            axis.set_title(title, fontsize=10)
            axis.set_xlabel("environment steps")
            axis.ticklabel_format(axis="x", style="sci", scilimits=(0, 4))
    for axis, (name, _) in zip(axes.flat, _PANELS, strict=True):
        if name == "max_ratio":
            axis.set_yscale("log")
    _draw_delta(axes.flat[1], [run_dir for run_dir, _ in runs])
    figure.legend(*axes.flat[1].get_legend_handles_labels(), loc="outside lower center", fontsize=8)
    return save_figure(figure, output)


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
    """Write a figure as PNG."""
    output = Path(output)
    figure.savefig(output, dpi=110)
    return output


def _read(run_dir: str | Path) -> list[dict[str, Any]]:
    metrics = read_metrics(run_dir)
    if not metrics:
        raise RunDirectoryError(f"{run_dir} holds no metrics yet")
    return metrics


def _config(run_dir: Path) -> dict[str, Any]:
    path = run_dir / CONFIG
    config: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return config


def _label(run_dir: Path) -> str:
    config = _config(run_dir)
    described = [str(config[key]) for key in ("env", "objective", "algo") if key in config]
    seed = f"seed {config['seed']}" if "seed" in config else ""
    return f"{run_dir.name}: {' '.join(described)} {seed}".strip()


def _draw_delta(axis: Axes, run_dirs: Sequence[Path]) -> None:
    configs = [_config(run_dir) for run_dir in run_dirs]
    for delta in {c["delta"] for c in configs if c.get("dual") not in (None, "fixed") and c.get("delta")}:
        axis.axhline(delta, color="black", linewidth=0.8, linestyle=":")
        axis.annotate("δ", (0.0, delta), xycoords=("axes fraction", "data"), fontsize=9)
