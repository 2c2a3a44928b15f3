"""The figures of language-model runs: training curves, and the paper's Figures 2 and 3."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from r2vpo.llm.experiments.figure2 import TOKENS, draw_figure2
from r2vpo.llm.experiments.figure3 import draw_figure3, seeds_text
from r2vpo.llm.experiments.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    Look,
    constant_in_the_middle,
    curve_of,
    finish_axis,
    group_runs,
    legend_handles,
    log_scale,
    looks,
    smooth,
    smoothing_window,
)
from r2vpo.runs.plotting import PlottedRun, draw_delta, load_run, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS = (
    ("accuracy_greedy", "greedy accuracy, held-out problems"),
    ("reward", "mean training reward"),
    ("ratio_variance", "ratio variance  E[(ρ-1)²]"),
    ("lam", "λ"),
    ("ess", "effective sample size / N"),
    ("entropy", "policy entropy (nats a token)"),
)
_LOGARITHMIC = ("ratio_variance",)
_SMOOTHED = ("reward",)
_MEASURED = ("accuracy_greedy", "pass_at_1")
_TIMES = (
    ("generate_seconds", "generate", BLUE),
    ("verify_seconds", "verify", GREEN),
    ("train_seconds", "train", ORANGE),
    ("sync_seconds", "sync", PINK),
)


def write_figures(run_dirs: Sequence[str | Path], output: Path) -> list[Path]:
    """Draw everything: the curves into ``output``, Figures 2 and 3 beside it.

    Figure 2 is that of the first run; without its tokens it is left out, with a line that says so.

    Raises:
        RunDirectoryError: A folder holds no metrics, or a file is damaged.
    """
    prefix = "" if output.stem == "curve" else f"{output.stem}-"
    paths = [draw_curve(run_dirs, output), draw_figure3(run_dirs, output.with_name(f"{prefix}figure3.png"))]
    if (Path(run_dirs[0]) / TOKENS).exists():
        paths.insert(1, draw_figure2(run_dirs[0], output.with_name(f"{prefix}figure2.png")))
    else:
        print(f"no figure 2: {run_dirs[0]} holds no {TOKENS} yet", file=sys.stderr)
    return paths


def draw_curve(run_dirs: Sequence[str | Path], output: str | Path) -> Path:
    """Accuracy, reward, ratio variance, lambda, ESS, entropy, ratio variance by age, and where the time went.

    Raises:
        RunDirectoryError: A folder holds no run or no metrics yet.
    """
    runs = [load_run(run_dir) for run_dir in run_dirs]
    figure, axes = new_figure(2, 4, (16.5, 6.6))
    groups = group_runs(runs)
    group_looks = looks(list(groups))
    styles, names = _styles_and_names(groups, group_looks)
    for axis, (name, title) in zip(axes.flat, _PANELS, strict=False):
        for run in runs:
            _draw_metric(axis, run, name, styles[id(run)], raw=len(runs) <= 3)
        if name in _LOGARITHMIC:
            log_scale(axis)
        else:
            constant_in_the_middle(axis)
        finish_axis(axis, title)
    draw_delta(axes.flat[2], runs)
    if len(runs) == 1:
        _draw_ages_of_one(axes.flat[6], runs[0])
        _draw_time_of_one(axes.flat[7], runs[0])
        figure.suptitle(f"{runs[0].path.resolve().name}: {names[id(runs[0])]}", fontsize=11)
    else:
        _draw_ages(axes.flat[6], runs, styles)
        _draw_times(axes.flat[7], runs, names)
        handles = legend_handles(
            {label: seeds_text(label, len(members)) for label, members in groups.items()}, group_looks
        )
        figure.legend(handles=handles, loc="outside lower center", fontsize=9, ncols=min(6, len(handles)))
    return save_figure(figure, output)


def _styles_and_names(
    groups: dict[str, list[PlottedRun]], group_looks: dict[str, Look]
) -> tuple[dict[int, Look], dict[int, str]]:
    """By identity of the run: the colour of its method with a line style of its own, and method and seed."""
    styles, names = {}, {}
    for label, members in groups.items():
        for i, run in enumerate(members):
            own = group_looks[label]
            styles[id(run)] = own if i == 0 else Look(own.color, ("-", "--", "-.", ":")[i % 4])
            names[id(run)] = f"{label}, seed {run.config['seed']}" if "seed" in run.config else label
    return styles, names


def _draw_metric(axis: Axes, run: PlottedRun, name: str, style: Look, raw: bool) -> None:
    steps, values = curve_of(run, name)
    lambda_unused = name == "lam" and run.config.get("objective", "r2vpo") != "r2vpo"
    if not len(steps) or lambda_unused:
        return
    window = smoothing_window(len(values)) if name in _SMOOTHED else 1
    if window > 1 and raw:
        axis.plot(steps, values, color=style.color, linewidth=0.7, alpha=0.3)
    marker = "o" if (len(steps) <= 40 and name in _MEASURED) or len(steps) == 1 else None
    axis.plot(steps, smooth(values, window), linewidth=1.5, marker=marker, markersize=3, **style.line())


def ages(run: PlottedRun) -> dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Steps and E[(rho-1)^2] by age in iterations; JSON has turned the ages into text."""
    found: dict[int, list[tuple[float, float]]] = {}
    for line in run.metrics:
        for age, value in (line.get("ratio_variance_by_age") or {}).items():
            if value is not None and np.isfinite(value):
                found.setdefault(int(age), []).append((line["step"], value))
    arrays = {age: np.array(points, dtype=np.float64) for age, points in sorted(found.items())}
    return {age: (points[:, 0], points[:, 1]) for age, points in arrays.items()}


def _draw_ages_of_one(axis: Axes, run: PlottedRun) -> None:
    from matplotlib import colormaps

    by_age = ages(run)
    for i, (age, (steps, values)) in enumerate(by_age.items()):
        color = colormaps["viridis"](0.9 * i / max(1, len(by_age) - 1))
        axis.plot(steps, smooth(values, smoothing_window(len(values))), color=color, linewidth=1.4, label=f"age {age}")
    log_scale(axis)
    if axis.get_yscale() == "log":
        low, high = axis.get_ylim()
        axis.set_ylim(low * (low / high) ** 0.15, high)  # room for the legend
    finish_axis(axis, "ratio variance by age (iterations)")
    _legend_or_note(axis, bool(by_age), "no ages recorded", "lower center", columns=4)


def _draw_ages(axis: Axes, runs: Sequence[PlottedRun], styles: dict[int, Look]) -> None:
    for run in runs:
        means = {age: values[len(values) // 2 :].mean() for age, (_, values) in ages(run).items()}
        axis.plot(list(means), list(means.values()), marker="o", markersize=4, linewidth=1.4, **styles[id(run)].line())
    log_scale(axis)
    axis.locator_params(axis="x", integer=True)
    finish_axis(axis, "ratio variance by age, second half of training", "age (iterations)")


def _draw_time_of_one(axis: Axes, run: PlottedRun) -> None:
    series = {label: run.series(name) for name, label, _ in _TIMES}
    known = {label: (steps, seconds) for label, (steps, seconds) in series.items() if len(steps)}
    if known:
        grid = next(iter(known.values()))[0]
        layers = [np.interp(grid, steps, seconds) for steps, seconds in known.values()]
        layers = [smooth(layer, smoothing_window(len(layer))) for layer in layers]
        colors = [color for _, label, color in _TIMES if label in known]
        totals = {label: seconds.sum() for label, (_, seconds) in known.items()}
        labels = [f"{label} {100 * total / max(sum(totals.values()), 1e-9):.0f} %" for label, total in totals.items()]
        axis.stackplot(grid, layers, colors=colors, labels=labels, alpha=0.85)
        axis.set_ylim(0, 1.35 * max(np.sum(layers, axis=0).max(), 1e-9))
    finish_axis(axis, "seconds an iteration")
    _legend_or_note(axis, bool(known), "no times recorded", "upper center", columns=2)


def _draw_times(axis: Axes, runs: Sequence[PlottedRun], names: dict[int, str]) -> None:
    left = np.zeros(len(runs))
    for name, label, color in _TIMES:
        seconds = np.array([run.series(name)[1].sum() for run in runs])
        axis.barh(range(len(runs)), seconds, left=left, color=color, label=label, height=0.7)
        left += seconds
    axis.set_yticks(range(len(runs)), [names[id(run)] for run in runs], fontsize=7)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    finish_axis(axis, "where the time went", "seconds")
    axis.tick_params(axis="y", labelsize=7)
    axis.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.16), handlelength=1.0, frameon=False)


def _legend_or_note(
    axis: Axes, drawn: bool, note: str, place: Literal["lower center", "upper center"], columns: int
) -> None:
    if drawn:
        axis.legend(*axis.get_legend_handles_labels(), fontsize=7, ncols=columns).set_loc(place)
    else:
        axis.text(0.5, 0.5, note, transform=axis.transAxes, ha="center", color=GREY, fontsize=9)
