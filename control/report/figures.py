"""The pictures of a report, drawn from the numbers of :mod:`r2vpo.control.report.numbers`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from r2vpo.runs.plotting import new_figure, save_figure

Row = dict[str, Any]

TRACE_TITLES = {"ratio_variance": "ratio variance E[(ρ−1)²]", "lam": "λ"}
_AGGREGATE_TITLES = {"iqm": "IQM", "median": "median", "mean": "mean", "optimality_gap": "optimality gap"}
_TAB10 = 10
_LEGEND_CHARACTERS = 64
"""Of a line of the legend below a curve, a sample of line counting as five."""
_LINE_STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Picture:
    """A PNG of the report."""

    path: Path
    alt: str
    """What is to be seen, for who does not see it."""


class Style:
    """One colour for each algorithm in all pictures; line styles tell apart those beyond the tenth."""

    def __init__(self, algorithms: Sequence[str]) -> None:
        self._places = {algo: i for i, algo in enumerate(algorithms)}

    def color(self, algo: str) -> str:
        """Of matplotlib's tab10."""
        return f"C{self._places[algo] % _TAB10}"

    def line(self, algo: str) -> str:
        """Line style."""
        return _LINE_STYLES[self._places[algo] // _TAB10 % len(_LINE_STYLES)]


def draw_all(document: Row, out: Path) -> dict[str, list[Picture]]:
    """Write every picture.

    Args:
        document: All numbers of the report.
        out: Folder of the PNGs.

    Returns:
        Pictures by section: ``aggregates``, ``profiles``, ``improvement``, ``steps``, ``seconds``, and each trace.
    """
    style = Style(document["algorithms"])
    pictures: dict[str, list[Picture]] = {name: [] for name in ("aggregates", "profiles", "improvement")}
    if document["aggregates"]:
        pictures["aggregates"].append(draw_aggregates(document["aggregates"], style, out / "aggregates.png"))
        pictures["profiles"].append(draw_profiles(document["profiles"], style, out / "profiles.png"))
    if document["improvement"]:
        picture = draw_improvement(document["improvement"], document["baseline"], style, out / "improvement.png")
        pictures["improvement"].append(picture)
    for name, axis_name, rows, label in curve_sets(document):
        pictures[name] = []
        for env in document["tasks"]:
            of_task = [row for row in rows if row["env"] == env]
            if of_task:
                path = out / f"{name}_{_file_name(env)}.png"
                pictures[name].append(draw_curves(of_task, axis_name, label, style, path))
    return pictures


def draw_aggregates(rows: Sequence[Row], style: Style, output: Path) -> Picture:
    """A panel for each aggregate: a bar from end to end of the interval, a mark at the estimate."""
    figure, axes = new_figure(2, 2, (7.5, 1.8 + 0.6 * len(rows)))
    for axis, (name, title) in zip(axes.flat, _AGGREGATE_TITLES.items(), strict=True):
        _draw_intervals(axis, {row["algo"]: row[name] for row in rows}, style)
        axis.set_title(f"{title} ({'lower' if name == 'optimality_gap' else 'higher'} is better)", fontsize=9)
    for axis in axes[:, 1]:
        axis.tick_params(labelleft=False)
    figure.supxlabel("normalised final return", fontsize=9)
    told = "; ".join(f"{row['algo']} {row['iqm']['value']:.2f}" for row in rows)
    return Picture(save_figure(figure, output), f"Aggregates over tasks with intervals. IQM: {told}.")


def draw_profiles(profiles: Row, style: Style, output: Path) -> Picture:
    """Fraction of runs above each threshold, with bands."""
    figure, axes = new_figure(1, 1, (7.0, 4.4))
    axis = axes[0, 0]
    for row in profiles["profiles"]:
        color = style.color(row["algo"])
        axis.plot(
            profiles["taus"], row["fraction"], color=color, linestyle=style.line(row["algo"]), label=row["algo"], lw=1.6
        )
        axis.fill_between(profiles["taus"], row["low"], row["high"], color=color, alpha=0.12, linewidth=0)
    axis.set_xlabel("normalised final return τ")
    axis.set_ylabel("fraction of runs above τ")
    axis.set_ylim(-0.02, 1.02)
    _legend(figure, axis)
    alt = f"Performance profiles of {', '.join(row['algo'] for row in profiles['profiles'])}, with bands."
    return Picture(save_figure(figure, output), alt)


def draw_improvement(rows: Sequence[Row], baseline: str, style: Style, output: Path) -> Picture:
    """P(X > baseline) over all tasks, with intervals, and a line at one half."""
    figure, axes = new_figure(1, 1, (7.0, 1.3 + 0.4 * len(rows)))
    axis = axes[0, 0]
    _draw_intervals(axis, {row["algo"]: row["overall"] for row in rows}, style)
    axis.axvline(0.5, color="black", linewidth=0.8, linestyle=":")
    axis.set_xlim(-0.02, 1.02)
    axis.set_xlabel(f"P(X > {baseline}), mean over tasks", fontsize=9)
    told = "; ".join(f"{row['algo']} {row['overall']['value']:.2f}" for row in rows)
    return Picture(save_figure(figure, output), f"Probability of improvement over {baseline}: {told}.")


def draw_curves(rows: Sequence[Row], axis_name: str, label: str, style: Style, output: Path) -> Picture:
    """Interquartile mean over seeds with its band, one task, a line for each algorithm.

    Args:
        rows: Of one task.
        axis_name: ``steps`` or ``seconds``.
        label: Of what is drawn.
        style: Colours.
        output: The PNG.
    """
    figure, axes = new_figure(1, 1, (6.0, 4.4))
    axis, env = axes[0, 0], rows[0]["env"]
    for row in rows:
        x, iqm, low, high = (np.array(row[name], dtype=np.float64) for name in (axis_name, "iqm", "low", "high"))
        color = style.color(row["algo"])
        axis.plot(x, iqm, color=color, linestyle=style.line(row["algo"]), linewidth=1.6, label=row["algo"])
        axis.fill_between(x, low, high, color=color, alpha=0.12, linewidth=0)
    if label in TRACE_TITLES.values() and spans_decades(rows):
        axis.set_yscale("log")
    axis.set_title(env, fontsize=11)
    axis.set_xlabel("environment steps" if axis_name == "steps" else "wall-clock seconds of training")
    if axis_name == "steps":
        axis.xaxis.set_major_formatter(_step_text)
    axis.set_ylabel(label)
    _legend(figure, axis)
    told = "; ".join(f"{row['algo']} {_last_known(row['iqm']):.3g}" for row in rows if _last_known(row["iqm"]))
    return Picture(save_figure(figure, output), f"{env}: {label} over {axis_name}. At the end: {told}.")


def curve_sets(document: Row) -> list[tuple[str, str, Sequence[Row], str]]:
    """Name, axis, rows and label of each set of curves, one for each task in it."""
    sets: list[tuple[str, str, Sequence[Row], str]] = [
        ("steps", "steps", document["curves"], "training return, IQM"),
        ("seconds", "seconds", document["curves"], "training return, IQM"),
    ]
    return sets + [(name, "steps", document["traces"][name], title) for name, title in TRACE_TITLES.items()]


def _draw_intervals(axis: Any, estimates: Mapping[str, Row], style: Style) -> None:
    names = list(estimates)
    axis.use_sticky_edges = False
    for place, (algo, estimate) in enumerate(estimates.items()):
        low, high = estimate["interval"]
        axis.barh(place, high - low, 0.55, left=low, color=style.color(algo), alpha=0.45, linewidth=0)
        axis.plot([estimate["value"]] * 2, [place - 0.275, place + 0.275], color="black", linewidth=1.6)
    axis.set_yticks(range(len(names)), names, fontsize=9)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="x", labelsize=8)


def _legend(figure: Any, axis: Any) -> None:
    handles, labels = axis.get_legend_handles_labels()
    fitting = max(1, _LEGEND_CHARACTERS // (max(map(len, labels)) + 5))
    lines = -(-len(labels) // fitting)
    columns = -(-len(labels) // lines)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)


def spans_decades(rows: Sequence[Row]) -> bool:
    """Whether these curves are better seen on a logarithmic axis."""
    points = [point for row in rows for point in row["iqm"] if point is not None]
    return bool(points) and min(points) > 0 and max(points) > 20 * min(points)


def _step_text(value: float, _: Any = None) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _last_known(points: Sequence[float | None]) -> float:
    return next((point for point in reversed(points) if point is not None), float("nan"))


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)
