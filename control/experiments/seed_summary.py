"""The summary, the picture and the printed report of one setting on several seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2vpo.errors import RunDirectoryError
from r2vpo.plotting import PANELS, PlottedRun, draw_band, draw_delta, load_run, panel_figure, save_figure
from r2vpo.runs.checkpoint import write_text_atomically
from r2vpo.runs.directory import CONFIG, CURVE, METRICS, SUMMARY
from r2vpo.runs.provenance import package_versions
from r2vpo.stats import bootstrap_interval, interquartile_mean

_WINDOWS = 60
"""Points of an interquartile mean: the mean of each seed in as many equal windows of steps comes first."""


def summarise_seeds(run_dirs: Sequence[Path], wall_seconds: float) -> dict[str, Any]:
    """What the summaries of the seeds say together.

    Args:
        run_dirs: Finished runs of one setting.
        wall_seconds: Time that all of them took together.

    Returns:
        Fields of summary.json; those of the evaluation are missing where there was none.
    """
    runs = [read_summary(run_dir) for run_dir in run_dirs]
    steps = sum(run["total_steps"] for run in runs)
    summary: dict[str, Any] = {name: runs[0][name] for name in ("env", "algo", "objective")}
    summary |= {
        "seeds": [run["seed"] for run in runs],
        "total_steps": runs[0]["total_steps"],
        "steps_per_second": steps / wall_seconds if wall_seconds else None,
        "wall_seconds": wall_seconds,
        "versions": package_versions(),
    }
    if all("eval_return_mean" in run for run in runs):
        returns = [run["eval_return_mean"] for run in runs]
        summary |= {
            "eval_return_iqm": float(interquartile_mean(returns)),
            "eval_return_interval": list(bootstrap_interval(returns)),
            "eval_returns_mean": returns,
            "eval_episodes": runs[0]["eval_episodes"],
        }
    return summary


def read_summary(run_dir: Path) -> dict[str, Any]:
    """What summary.json of a run holds.

    Raises:
        RunDirectoryError: It is damaged.
    """
    try:
        return dict(json.loads((run_dir / SUMMARY).read_text()))
    except ValueError as error:
        raise RunDirectoryError(f"{run_dir / SUMMARY} is damaged: {error}") from error


def best_run(run_dirs: Sequence[Path]) -> Path:
    """The run with the highest evaluation; with the highest last training return where none was evaluated."""

    def score(run_dir: Path) -> float:
        evaluated = read_summary(run_dir).get("eval_return_mean")
        if evaluated is not None:
            return float(evaluated)
        _, returns = load_run(run_dir).series("return")
        return float(returns[-1]) if len(returns) else -np.inf

    return max(run_dirs, key=score)


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
            draw_band(axis, *_windows(runs, name), f"C{i}", _label(Path(parent), runs), opacity=0.2)
    draw_delta(axes[1], drawn)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", fontsize=8)
    return save_figure(figure, output)


def print_report(parent: Path, run_dirs: Sequence[Path], json_copy: Path | None) -> None:
    """Print a row a seed, their interquartile mean, and where everything is.

    Args:
        parent: Directory of the seeds, with its summary.json.
        run_dirs: Their run directories.
        json_copy: Where the summary is written once more, or None.
    """
    summary = read_summary(parent)
    if json_copy is not None:
        write_text_atomically(json_copy, (parent / SUMMARY).read_text())
    for run_dir in run_dirs:
        run = read_summary(run_dir)
        print(
            f"{run_dir.name:<12}{_evaluation(run)}{run['train_seconds']:.0f} s, {run['steps_per_second']:,.0f} steps/s"
        )
    if "eval_return_iqm" in summary:
        low, high = summary["eval_return_interval"]
        print(
            f"{'IQM':<12}{summary['eval_return_iqm']:.1f} [{low:.1f}, {high:.1f}] over {len(run_dirs)} seeds "
            "(interquartile mean, 95 % bootstrap interval)"
        )
    speed = summary["steps_per_second"]
    together = f", {speed:,.0f} steps/s of all together" if speed else ""
    print(f"{'trained':<12}{summary['wall_seconds']:.0f} s{together}")
    for name, file in (("summary", SUMMARY), ("curve", CURVE), ("video", "video.mp4")):
        if (parent / file).exists():
            print(f"{name:<12}{parent / file}")


def _evaluation(run: dict[str, Any]) -> str:
    if "eval_return_mean" not in run:
        return ""
    score = f"{run['eval_return_mean']:.1f} ± {run['eval_return_std']:.1f} over {run['eval_episodes']} episodes"
    return f"{score} (sampling actions: {run['eval_return_mean_stochastic']:.1f}), "


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


def _label(parent: Path, runs: Sequence[PlottedRun]) -> str:
    config = runs[0].config
    described = " ".join(str(config[name]) for name in ("env", "objective", "algo") if name in config)
    drawn = f"interquartile mean of {len(runs)} seeds, its 95 % bootstrap interval, and each seed"
    return f"{parent.name}: {described}, {drawn}"
