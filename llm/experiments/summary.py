"""Table and picture of a comparison of methods: final accuracy, and rollouts needed for the baseline's best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r2vpo.runs.plotting import new_figure, save_figure
from r2vpo.runs.stats import bootstrap_interval, interquartile_mean, summarise
from r2vpo.runs.workers import Line

BASELINE = "grpo"

GREEDY, SAMPLED = ("accuracies", "first_accuracy_greedy"), ("passes_at_1", "first_pass_at_1")
"""Of a line: a curve, and its point before training."""

Curve = tuple[str, str]


def rollouts_to(line: Line, accuracy: float, curve: Curve = GREEDY) -> float | None:
    """Rollouts until a run's accuracy is first at least ``accuracy``, interpolated between evaluations.

    Returns:
        The number, or None when the run never gets there.
    """
    steps, values = [0, *line["steps"]], [line[curve[1]], *line[curve[0]]]
    for i, value in enumerate(values):
        if value >= accuracy:
            if i == 0:
                return 0.0
            share = (accuracy - values[i - 1]) / (value - values[i - 1])
            return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))
    return None


def best_accuracy(lines: Sequence[Line], curve: Curve = GREEDY) -> float:
    """Best point of the mean accuracy curve over the seeds of one method."""
    return float(np.max(np.mean([line[curve[0]] for line in lines], axis=0)))


def sample_efficiency(lines: Sequence[Line], baseline: Sequence[Line], curve: Curve = GREEDY) -> dict[str, Any]:
    """Rollouts a method needs for the baseline's best accuracy, as a ratio to what the baseline needs.

    Runs that never reach it count with their whole length, so the ratio is then a lower bound; ``reached`` says how
    many did.

    Args:
        lines: Runs of the method, one a seed.
        baseline: Runs of the baseline.
        curve: Of greedy or of sampled answers.

    Returns:
        ``target`` accuracy, ``rollouts`` of each run, ``reached`` the fraction of runs, ``ratio`` of the means and
        its 95 % bootstrap ``interval`` over seeds (both sides resampled).
    """
    target = best_accuracy(baseline, curve)
    own = np.array([_or_whole(line, target, curve) for line in lines])
    theirs = np.array([_or_whole(line, target, curve) for line in baseline])
    random = np.random.default_rng(0)
    # A baseline that starts at its best needs no rollouts; one rollout keeps the ratio finite.
    resampled = [
        random.choice(own, len(own)).mean() / max(1.0, random.choice(theirs, len(theirs)).mean()) for _ in range(10_000)
    ]
    return {
        "target": target,
        "rollouts": own.tolist(),
        "reached": float(np.mean([rollouts_to(line, target, curve) is not None for line in lines])),
        "ratio": float(own.mean() / max(1.0, theirs.mean())),
        "interval": [float(q) for q in np.quantile(resampled, [0.025, 0.975])],
    }


def summarise_methods(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """One row a method: final greedy accuracy and pass@1 over seeds, sample efficiency beside the baselines, speed.

    ``sample_efficiency`` is that in greedy accuracy beside :data:`BASELINE`, ``sampled_efficiency`` that in sampled
    pass@1; ``against`` has the latter beside each of its variants and of those with replay, each at its own best.
    Figures that some run lacks, for want of held-out problems say, are left out.
    """
    by_label = {label: [line for line in lines if line["label"] == label] for label in _labels(lines)}
    rows = []
    for label, runs in by_label.items():
        row = {
            "method": label,
            "seeds": sorted(run["seed"] for run in runs),
            "total_rollouts": runs[0]["total_rollouts"],
            "samples_per_second": float(np.median([run["samples_per_second"] for run in runs])),
        }
        for name in ("accuracy_greedy", "pass_at_1"):
            if all(run[name] is not None for run in runs):
                row[name] = summarise([run[name] for run in runs])
        for curve, name in ((GREEDY, "sample_efficiency"), (SAMPLED, "sampled_efficiency")):
            if BASELINE in by_label and _comparable([*runs, *by_label[BASELINE]], curve):
                row[name] = sample_efficiency(runs, by_label[BASELINE], curve)
        rivals = {other: theirs for other, theirs in by_label.items() if other.startswith(f"{BASELINE}-")}
        against = {
            other: sample_efficiency(runs, theirs, SAMPLED)
            for other, theirs in rivals.items()
            if other != label and _comparable([*runs, *theirs], SAMPLED)
        }
        if against:
            row["against"] = against
        rows.append(row)
    return rows


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows of :func:`summarise_methods`."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="held-out greedy accuracy after training, over seeds [95 % bootstrap interval]")
    table.add_column("method")
    ratio = f"rollouts for {BASELINE}'s best, ratio"
    for heading in ("seeds", "accuracy, mean", "pass@1", ratio, f"in pass@1, {ratio}", "rollouts/s"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row["method"],
            str(len(row["seeds"])),
            *(_cell(row[name]) if name in row else "-" for name in ("accuracy_greedy", "pass_at_1")),
            *(_ratio(row.get(name)) for name in ("sample_efficiency", "sampled_efficiency")),
            f"{row['samples_per_second']:,.0f}",
        )
    Console(width=160).print(table)


def plot_methods(lines: Sequence[Line], output: Path) -> Path:
    """Accuracies, reward, ratio variance and entropy against rollouts: mean over seeds, accuracies with intervals."""
    figure, axes = new_figure(2, 3, (16.0, 8.0))
    axes.flat[5].set_axis_off()
    starts = dict((GREEDY, SAMPLED))
    panels = (
        ("accuracies", "greedy accuracy on held-out problems, IQM"),
        ("passes_at_1", "sampled pass@1 on held-out problems, IQM"),
        ("rewards", "training reward"),
        ("ratio_variances", "ratio variance  E[(ρ-1)²]"),
        ("entropies", "entropy (nats a token)"),
    )
    for i, label in enumerate(_labels(lines)):
        runs = [line for line in lines if line["label"] == label]
        for axis, (name, _) in zip(axes.flat, panels, strict=False):
            lengths = {len(run.get(name, ())) for run in runs}
            if len(lengths) > 1 or lengths == {0}:  # one that failed leaves a gap; older lines have no sampled answers
                continue
            values = np.array([run[name] for run in runs], dtype=float)
            steps = runs[0]["steps"]
            if len(steps) != values.shape[1]:
                steps = np.linspace(0, runs[0]["total_rollouts"], values.shape[1] + 1)[1:]
            if name in starts and all(run[starts[name]] is not None for run in runs):
                steps = [0, *steps]
                values = np.column_stack([[run[starts[name]] for run in runs], values])
            color, style = f"C{i % 10}", "-" if i < 10 else "--"
            axis.plot(steps, interquartile_mean(values, axis=0), style, color=color, label=label, linewidth=1.5)
            if name in starts and len(runs) > 1:
                band = np.array([bootstrap_interval(column) for column in values.T]).T
                axis.fill_between(steps, *band, color=color, alpha=0.12, linewidth=0)
    for axis, (name, title) in zip(axes.flat, panels, strict=False):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("rollouts")
        if name == "ratio_variances":
            axis.set_yscale("log")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    return save_figure(figure, output)


def _comparable(lines: Sequence[Line], curve: Curve) -> bool:
    """Whether all runs were evaluated, before training and at the same rollouts."""
    steps, (values, first) = lines[0]["steps"], curve
    return bool(steps) and all(
        line["steps"] == steps and line.get(first) is not None and len(line[values]) == len(steps) for line in lines
    )


def _or_whole(line: Line, target: float, curve: Curve) -> float:
    needed = rollouts_to(line, target, curve)
    return float(line["total_rollouts"]) if needed is None else needed


def _labels(lines: Sequence[Line]) -> list[str]:
    return list(dict.fromkeys(line["label"] for line in lines))


def _ratio(efficiency: dict[str, Any] | None) -> str:
    if efficiency is None:
        return "-"
    low, high = efficiency["interval"]
    mark = "" if efficiency["reached"] == 1 else f" ({efficiency['reached']:.0%} reach it)"
    return f"{efficiency['ratio']:.2f} [{low:.2f}, {high:.2f}]{mark}"


def _cell(summary: dict[str, Any]) -> str:
    low, high = summary["mean_interval"]
    return f"{summary['mean']:.3f} [{low:.3f}, {high:.3f}]"
