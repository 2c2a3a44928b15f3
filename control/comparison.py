"""The table and the picture of a comparison, from its study lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r2vpo.plotting import draw_band, new_figure, save_figure
from r2vpo.stats import summarise

Line = dict[str, Any]


def summarise_lines(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """One row for each task and algorithm: scores over seeds with intervals, and speed."""
    rows = []
    for env in _unique(lines, "env"):
        for algo in _unique(lines, "algo"):
            runs = [line for line in lines if line["env"] == env and line["algo"] == algo]
            if not runs:
                continue
            rows.append(
                {
                    "env": env,
                    "algo": algo,
                    "seeds": sorted(run["seed"] for run in runs),
                    "total_steps": runs[0]["total_steps"],
                    "deterministic": summarise([run["eval_return_mean"] for run in runs]),
                    "stochastic": summarise([run["eval_return_mean_stochastic"] for run in runs]),
                    "while_training": summarise([return_while_training(run) for run in runs]),
                    "steps_per_second": float(np.median([run["steps_per_second"] for run in runs])),
                }
            )
    return rows


def return_while_training(line: Line) -> float:
    """Mean of the training return over the whole run: how early it learns, and less noisy than the last policy."""
    return float(np.mean([value for value in line["returns"] if value is not None]))


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows of :func:`summarise_lines`."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="return after training, over seeds [95 % bootstrap interval]")
    for heading in ("task", "algorithm", "seeds"):
        table.add_column(heading)
    for heading in ("mean", "IQM", "IQM, sampled actions", "IQM, whole training", "steps/s"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row["env"],
            row["algo"],
            str(len(row["seeds"])),
            _cell(row["deterministic"], "mean"),
            _cell(row["deterministic"], "iqm"),
            _cell(row["stochastic"], "iqm"),
            _cell(row["while_training"], "iqm"),
            f"{row['steps_per_second']:,.0f}",
        )
    Console(width=140).print(table)


def plot_comparison(lines: Sequence[Line], output: Path) -> Path:
    """One panel a task: IQM of the training return over seeds, with its bootstrap interval as a band."""
    envs, algos = _unique(lines, "env"), _unique(lines, "algo")
    columns = min(3, len(envs))
    rows = -(-len(envs) // columns)
    figure, axes = new_figure(rows, columns, (5.0 * columns, 4.0 * rows))
    for axis, env in zip(axes.flat, envs, strict=False):
        for i, algo in enumerate(algos):
            runs = [line for line in lines if line["env"] == env and line["algo"] == algo]
            if runs:
                _draw(axis, runs, f"C{i}", algo)
        axis.set_title(f"{env}, {len({line['seed'] for line in lines if line['env'] == env})} seeds")
        axis.set_xlabel("environment steps")
        axis.set_ylabel("training return, IQM")
    for axis in axes.flat[len(envs) :]:
        axis.set_visible(False)
    axes.flat[0].legend(fontsize=8)
    return save_figure(figure, output)


def _draw(axis: Any, runs: Sequence[Line], color: str, label: str) -> None:
    steps = np.array(runs[0]["steps"])
    returns = np.array([[np.nan if r is None else r for r in run["returns"]] for run in runs])
    draw_band(axis, steps, returns, color, label)


def _cell(summary: dict[str, Any], name: str) -> str:
    low, high = summary[f"{name}_interval"]
    return f"{summary[name]:.0f} [{low:.0f}, {high:.0f}]"


def _unique(lines: Sequence[Line], name: str) -> list[str]:
    return list(dict.fromkeys(line[name] for line in lines))
