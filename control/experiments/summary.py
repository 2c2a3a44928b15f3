"""The table and the picture of a comparison, from its study lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r2vpo.control.experiments.job import Job
from r2vpo.plotting import draw_band, new_figure, save_figure
from r2vpo.stats import summarise

Line = dict[str, Any]

FEW_TASKS = 3
"""That many panels have a row to themselves; more tasks share smaller ones."""


def summarise_lines(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """One row for each task and algorithm (with its settings and steps): scores over seeds with intervals, and speed.

    Args:
        lines: Study lines.

    Returns:
        Rows with ``success_rate``, the mean over seeds, only where the task tells success.
    """
    rows = []
    for (env, label), runs in _groups(lines).items():
        rates = [run["success_rate"] for run in runs if "success_rate" in run]
        rows.append(
            {
                "env": env,
                "algo": runs[0]["algo"],
                "label": label,
                "settings": runs[0].get("settings", {}),
                "seeds": sorted(run["seed"] for run in runs),
                "total_steps": runs[0]["total_steps"],
                "deterministic": summarise([run["eval_return_mean"] for run in runs]),
                "stochastic": summarise([run["eval_return_mean_stochastic"] for run in runs]),
                "while_training": summarise([return_while_training(run) for run in runs]),
                **({"success_rate": float(np.mean(rates))} if len(rates) == len(runs) else {}),
                "steps_per_second": float(np.median([run["steps_per_second"] for run in runs])),
            }
        )
    return rows


def return_while_training(line: Line) -> float:
    """Mean of the training return over the whole run: how early it learns, and less noisy than the last policy.

    Args:
        line: A study line.

    Returns:
        NaN where no episode ended.
    """
    known = [value for value in line["returns"] if value is not None]
    return float(np.mean(known)) if known else float("nan")


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows of :func:`summarise_lines`."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="return after training, over seeds [95 % bootstrap interval]")
    table.add_column("task", no_wrap=True)
    table.add_column("algorithm", min_width=12)
    table.add_column("seeds")
    with_success = any("success_rate" in row for row in rows)
    headings = ["mean", "IQM", "IQM, sampled actions", "IQM, whole training", *["success"] * with_success, "steps/s"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for i, row in enumerate(rows):
        rate = f"{100 * row['success_rate']:.0f} %" if "success_rate" in row else "-"
        table.add_row(
            row["env"],
            row["label"],
            str(len(row["seeds"])),
            _cell(row["deterministic"], "mean"),
            _cell(row["deterministic"], "iqm"),
            _cell(row["stochastic"], "iqm"),
            _cell(row["while_training"], "iqm"),
            *[rate] * with_success,
            f"{row['steps_per_second']:,.0f}",
            end_section=rows[min(i + 1, len(rows) - 1)]["env"] != row["env"],
        )
    Console(width=160).print(table)


def plot_comparison(lines: Sequence[Line], output: Path) -> Path:
    """One panel a task: IQM of the training return over seeds, with its bootstrap interval as a band."""
    from matplotlib.ticker import EngFormatter

    groups = _groups(lines)
    envs = list(dict.fromkeys(env for env, _ in groups))
    labels = list(dict.fromkeys(label for _, label in groups))
    columns = len(envs) if len(envs) <= FEW_TASKS else -(-len(envs) // _panel_rows(len(envs)))
    rows = -(-len(envs) // columns)
    width, height = (5.0, 4.0) if len(envs) <= FEW_TASKS else (3.6, 2.9)
    legend_rows = -(-len(labels) // max(1, 2 * columns))
    figure, axes = new_figure(rows, columns, (width * columns, height * rows + 0.25 * legend_rows))
    handles: dict[str, Any] = {}
    for panel, (axis, env) in enumerate(zip(axes.flat, envs, strict=False)):
        for i, label in enumerate(labels):
            if (env, label) in groups:
                _draw(axis, groups[env, label], f"C{i % 10}", label)
        axis.set_title(f"{env}, {_seeds_text([runs for (task, _), runs in groups.items() if task == env])}", fontsize=9)
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.tick_params(labelsize=8)
        if panel + columns >= len(envs):
            axis.set_xlabel("environment steps", fontsize=9)
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    for axis in axes.flat[len(envs) :]:
        axis.set_visible(False)
    figure.supylabel("training return, IQM over seeds", fontsize=10)
    shown = [label for label in labels if label in handles]
    figure.legend([handles[label] for label in shown], shown, loc="outside lower center", ncols=2 * columns, fontsize=9)
    return save_figure(figure, output)


def _groups(lines: Sequence[Line]) -> dict[tuple[str, str], list[Line]]:
    """Lines by task and by what the algorithm is called, both in the order of their first line."""
    several = len({line["total_steps"] for line in lines}) > 1
    envs = list(dict.fromkeys(line["env"] for line in lines))
    labels = dict.fromkeys(_label(line, several) for line in lines)
    groups: dict[tuple[str, str], list[Line]] = {(env, label): [] for env in envs for label in labels}
    for line in lines:
        groups[line["env"], _label(line, several)].append(line)
    return {key: runs for key, runs in groups.items() if runs}


def _label(line: Line, with_steps: bool) -> str:
    name = Job.of_line(line).name
    return f"{name}, {line['total_steps']:,} steps" if with_steps else name


def _panel_rows(tasks: int) -> int:
    return max(1, round((tasks / 1.6) ** 0.5))


def _seeds_text(groups: Sequence[Sequence[Line]]) -> str:
    counts = sorted({len(runs) for runs in groups})
    if counts == [1]:
        return "1 seed"
    return f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def _draw(axis: Any, runs: Sequence[Line], color: str, label: str) -> None:
    steps = np.array(runs[0]["steps"])
    returns = np.array([[np.nan if r is None else r for r in run["returns"]] for run in runs])
    draw_band(axis, steps, returns, color, label)


def _cell(summary: dict[str, Any], name: str) -> str:
    low, high = summary[f"{name}_interval"]
    digits = 0 if max(map(abs, (summary[name], low, high))) >= 10 else 2
    return f"{summary[name]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
