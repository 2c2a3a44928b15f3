"""The picture of ``r2vpo bench control``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from r2vpo.control.bench_runs import LABELS, PEERS, PHYSICS, Measurement


def plot_speed(rounds: dict[str, Sequence[dict[str, Measurement]]], path: Path) -> None:
    """A bar for each measured thing: median steps per second, with its range and its multiple of SB3's default.

    Args:
        rounds: For each task, the measurements of each round by name.
        path: PNG to write.
    """
    from matplotlib.figure import Figure

    tasks = {env: done for env, done in rounds.items() if done}
    figure = Figure(figsize=(9.0, 0.6 + 2.8 * len(tasks)), layout="constrained")
    for axes, (env, done) in zip(np.atleast_1d(figure.subplots(len(tasks))), tasks.items(), strict=True):
        names = [name for name in LABELS if name in done[0]]
        speeds = {name: [one[name]["steps_per_second"] for one in done] for name in names}
        medians = [float(np.median(speeds[name])) for name in names]
        spread = [
            [median - min(speeds[name]) for name, median in zip(names, medians, strict=True)],
            [max(speeds[name]) - median for name, median in zip(names, medians, strict=True)],
        ]
        colors = ["0.75" if name == PHYSICS else "tab:orange" if name in PEERS else "tab:blue" for name in names]
        axes.barh(range(len(names)), medians, xerr=spread, color=colors, height=0.7)
        for row, (name, median) in enumerate(zip(names, medians, strict=True)):
            text = f" {median:,.0f}"
            if "sb3-1" in names and name != "sb3-1":
                text += f"  ({median / medians[names.index('sb3-1')]:.1f}×)"
            axes.text(max(speeds[name]), row, text, va="center", fontsize=8)
        axes.set_yticks(range(len(names)), [LABELS[name] for name in names], fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.18)
        axes.set_title(env, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("environment steps per second of training (× SB3 PPO with 1 environment)")
    figure.savefig(path, dpi=130)
