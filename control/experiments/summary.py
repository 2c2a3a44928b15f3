"""The table of a comparison, from its study lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from r2vpo.control.experiments.job import Job
from r2vpo.runs.stats import summarise
from r2vpo.runs.workers import Line


def summarise_lines(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """One row for each task and algorithm (with its settings and steps): scores over seeds with intervals, and speed.

    Args:
        lines: Study lines.

    Returns:
        Rows with ``success_rate``, the mean over seeds, only where the task tells success.
    """
    rows = []
    for (env, label), runs in grouped(lines).items():
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


def grouped(lines: Sequence[Line]) -> dict[tuple[str, str], list[Line]]:
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


def _cell(summary: dict[str, Any], name: str) -> str:
    low, high = summary[f"{name}_interval"]
    digits = 0 if max(map(abs, (summary[name], low, high))) >= 10 else 2
    return f"{summary[name]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
