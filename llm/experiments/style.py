"""What the figures of language-model runs share: which runs are seeds of one method, colours, smoothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from r2vpo.runs.plotting import PlottedRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, PINK, SKY, AMBER, GREY, BLACK = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#8C8C8C",
    "#000000",
)
"""Okabe and Ito's colours, which colour-blind readers tell apart."""
PALETTE = (BLUE, GREEN, PINK, SKY, BLACK, GREY, ORANGE, AMBER)
_OWN_COLORS = {"r2vpo-off": ORANGE, "r2vpo-on": AMBER}
"""R²VPO in the colours of the paper's figures."""
_LINESTYLES = ("-", "--", ":", "-.")
_NOT_A_METHOD = {"seed", "run_dir", "kind", "method", "algo", "objective"}
"""Entries of a config that do not tell two methods apart, or are told by the method's name."""


@dataclass(frozen=True)
class Look:
    """Colour and line style."""

    color: str
    linestyle: str

    def line(self) -> dict[str, Any]:
        """As keyword arguments of ``plot``."""
        return {"color": self.color, "linestyle": self.linestyle}


def method_of(run: PlottedRun) -> str:
    """Name of the method that a run trained with."""
    config = run.config
    if config.get("method"):
        return str(config["method"])
    return " ".join(str(config[key]) for key in ("objective", "algo") if key in config) or run.path.name


def curve_of(run: PlottedRun, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and values of a metric; of one that was measured before training, from there on."""
    steps, values = run.series(name)
    first = run.metrics[0].get(f"first_{name}") if run.metrics else None
    return (steps, values) if first is None else (np.append(0.0, steps), np.append(first, values))


def group_runs(runs: Sequence[PlottedRun]) -> dict[str, list[PlottedRun]]:
    """Runs that differ by their seed alone, under a label; settings that differ within one method are in its label."""
    methods: dict[str, list[PlottedRun]] = {}
    for run in runs:
        methods.setdefault(method_of(run), []).append(run)
    groups: dict[str, list[PlottedRun]] = {}
    for method, members in methods.items():
        differing = _differing([run.config for run in members])
        for run in members:
            label = ", ".join([method, *(f"{name} {_short(run.config.get(name))}" for name in differing)])
            groups.setdefault(label, []).append(run)
    return groups


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """A look for each label, the same for a method in every figure that shows the same methods."""
    chosen: dict[str, Look] = {}
    taken = [_OWN_COLORS[label] for label in labels if label in _OWN_COLORS]
    free = [color for color in PALETTE if color not in taken]
    others = 0
    for label in labels:
        if label in _OWN_COLORS:
            chosen[label] = Look(_OWN_COLORS[label], "-")
        else:
            chosen[label] = Look(free[others % len(free)], _LINESTYLES[others // len(free) % len(_LINESTYLES)])
            others += 1
    return chosen


def legend_handles(texts: dict[str, str], styles: dict[str, Look]) -> list[Any]:
    """Legend entries: the text and the look of each label."""
    from matplotlib.lines import Line2D

    return [Line2D([], [], linewidth=2.0, label=text, **styles[label].line()) for label, text in texts.items()]


def smooth(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Centred running mean over ``window`` values, fewer at the ends; ``[n]``."""
    if window <= 1 or len(values) < 2:
        return values
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low, high = np.maximum(places - window // 2, 0), np.minimum(places + (window + 1) // 2, len(values))
    smoothed: NDArray[np.float64] = (sums[high] - sums[low]) / (high - low)
    return smoothed


def smoothing_window(points: int) -> int:
    """Iterations to average over, so that a curve has about forty independent points."""
    return max(1, points // 40)


def finish_axis(axis: Axes, title: str, xlabel: str = "rollouts") -> None:
    """Title, label and short numbers."""
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(xlabel, fontsize=9)
    axis.tick_params(which="both", labelsize=8)
    if xlabel == "rollouts":
        from matplotlib.ticker import EngFormatter

        axis.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k


def log_scale(axis: Axes) -> None:
    """Logarithmic y axis, numbered 0.02 and not 2 x 10^-2, where the lines in it have something above 0."""
    if not any(np.any(np.asarray(line.get_ydata()) > 0) for line in axis.lines):
        return
    from matplotlib.ticker import FuncFormatter, LogFormatter

    axis.set_yscale("log", nonpositive="mask")
    chooses = LogFormatter(labelOnlyBase=False, minor_thresholds=(1.5, 0.5))
    chooses.set_axis(axis.yaxis)

    def number(value: float, position: int | None = None) -> str:
        chooses.set_locs()
        return f"{value:.3g}" if chooses(value, position) else ""

    axis.yaxis.set_major_formatter(FuncFormatter(number))
    axis.yaxis.set_minor_formatter(FuncFormatter(number))


def constant_in_the_middle(axis: Axes) -> None:
    """Where all lines stay at one value, show it between 0 and twice that, not magnified rounding."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=np.float64) for line in axis.lines] or [np.zeros(0)])
    if len(values) and np.ptp(values) <= 1e-9 * abs(values[0]) and values[0] > 0:
        axis.set_ylim(0.0, 2.0 * values[0])


def _differing(configs: Sequence[dict[str, Any]]) -> list[str]:
    names = sorted({name for config in configs for name in config} - _NOT_A_METHOD)
    return [n for n in names if len({json.dumps(config.get(n), default=str) for config in configs}) > 1]


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
