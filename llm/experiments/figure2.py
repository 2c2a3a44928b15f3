"""Figure 2 of arXiv 2601.03320 for a run: ratio against behaviour probability, and the proxy beside JS and KL."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from r2vpo.diagnostics import CLIP_REFERENCE
from r2vpo.errors import RunDirectoryError
from r2vpo.llm.experiments.style import BLUE, GREEN, GREY, ORANGE, finish_axis, log_scale, method_of
from r2vpo.runs.plotting import PlottedRun, load_run, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TOKENS = "tokens.npz"
_MOST_POINTS = 6000

Tokens = dict[str, NDArray[np.float64]]


def draw_figure2(run_dir: str | Path, output: str | Path) -> Path:
    """(a) tokens of one update; (b) JS and Var/8, (c) KL and Var/2 along training (Lemma 3.1).

    Raises:
        RunDirectoryError: The run has no metrics, no divergences in them, or no tokens.
    """
    run, tokens = load_run(run_dir), read_tokens(run_dir)
    figure, axes = new_figure(1, 3, (14.0, 4.4))
    _draw_tokens(axes[0, 0], tokens, _update_of_tokens(run_dir))
    _draw_divergence(axes[0, 1], run, "js", "JS", 8, "(b)", BLUE)
    _draw_divergence(axes[0, 2], run, "kl", "KL (k3)", 2, "(c)", GREEN)
    figure.suptitle(f"{run.path.resolve().name}: {method_of(run)}", fontsize=10)
    return save_figure(figure, output)


def read_tokens(run_dir: str | Path) -> Tokens:
    """``old_log_prob``, ``log_ratio`` and ``advantage``, ``[n]`` each, of a run's tokens.npz; finite ones alone.

    Raises:
        RunDirectoryError: The file is missing, damaged or empty, or lacks one of the arrays.
    """
    path = Path(run_dir) / TOKENS
    if not path.is_file():
        raise RunDirectoryError(f"{run_dir} holds no tokens yet: there is no {TOKENS} in it")
    names = ("old_log_prob", "log_ratio", "advantage")
    try:
        with np.load(path) as archive:
            tokens = {name: np.asarray(archive[name], dtype=np.float64).ravel() for name in names}
    except KeyError as error:
        raise RunDirectoryError(f"{path} lacks an array: {error.args[0]}") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from error
    if len({len(values) for values in tokens.values()}) > 1:
        raise RunDirectoryError(f"{path} is damaged: its arrays differ in length")
    finite = np.all([np.isfinite(values) for values in tokens.values()], axis=0)
    if not finite.any():
        raise RunDirectoryError(f"{path} holds no tokens")
    return {name: values[finite] for name, values in tokens.items()}


def _update_of_tokens(run_dir: str | Path) -> str:
    with np.load(Path(run_dir) / TOKENS) as archive:
        return f", update at {int(archive['step']):,} rollouts" if "step" in archive else ""


def _draw_tokens(axis: Axes, tokens: Tokens, update: str) -> None:
    rng = np.random.default_rng(0)
    total = len(tokens["log_ratio"])
    chosen = rng.permutation(total)[:_MOST_POINTS]
    probability = np.exp(tokens["old_log_prob"])
    ratio, advantage = np.exp(np.clip(tokens["log_ratio"], -20.0, 20.0)), tokens["advantage"]
    outside = np.abs(ratio - 1.0) > CLIP_REFERENCE
    kinds = (
        (~outside, GREY, f"|ρ-1| ≤ {CLIP_REFERENCE}", 0.25),
        (outside & (advantage == 0), "#C5B000", "beyond, A = 0", 0.7),
        (outside & (advantage < 0), BLUE, "beyond, A < 0", 0.7),
        (outside & (advantage > 0), ORANGE, "beyond, A > 0", 0.7),
    )
    for kind, color, label, alpha in kinds:
        if kind.any():
            points = chosen[kind[chosen]]
            label = f"{label}: {_share(kind.mean())}"
            axis.scatter(probability[points], ratio[points], s=7, color=color, alpha=alpha, linewidths=0, label=label)
    for bound in (1.0 - CLIP_REFERENCE, 1.0 + CLIP_REFERENCE):
        axis.axhline(bound, color="black", linewidth=0.8, linestyle="--")
    reach = max(2.0, float(np.exp(np.abs(np.log(ratio)).max())) * 1.15)
    log_scale(axis)
    axis.set_ylim(1.0 / reach, reach)
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylabel("ratio ρ", fontsize=9)
    finish_axis(axis, f"(a) ratio of {total:,} tokens{update}", "behaviour probability of the token")
    legend = axis.legend(fontsize=8, loc="best", markerscale=2.0)
    for handle in filter(None, legend.legend_handles):
        handle.set_alpha(1.0)


def _draw_divergence(axis: Axes, run: PlottedRun, name: str, label: str, divisor: int, letter: str, color: str) -> None:
    steps, divergence = run.series(name)
    proxy_steps, variance = run.series("ratio_variance")
    if not len(steps) or not len(proxy_steps):
        missing = "ratio_variance" if len(steps) else name
        raise RunDirectoryError(f"{run.path} holds no {missing} in its metrics")
    axis.plot(steps, divergence, color=color, linewidth=2.4, alpha=0.8, label=label)
    axis.plot(proxy_steps, variance / divisor, color=ORANGE, linewidth=1.3, label=f"E[(ρ-1)²] / {divisor}")
    log_scale(axis)
    axis.set_ylabel("nats", fontsize=9)
    agreement = _agreement(steps, divergence, proxy_steps, variance / divisor)
    finish_axis(axis, f"{letter} {label} and its proxy{agreement}")
    axis.legend(fontsize=8)


def _agreement(
    steps: NDArray[np.float64],
    divergence: NDArray[np.float64],
    proxy_steps: NDArray[np.float64],
    proxy: NDArray[np.float64],
) -> str:
    _, first, second = np.intersect1d(steps, proxy_steps, return_indices=True)
    divergence, proxy = divergence[first], proxy[second]
    known = divergence > 0
    return f", median quotient {np.median(proxy[known] / divergence[known]):.2f}" if known.any() else ""


def _share(fraction: float) -> str:
    return f"{100 * fraction:.2g} %" if fraction < 0.995 else f"{100 * fraction:.1f} %"
