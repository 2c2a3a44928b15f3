"""How fast does each dual rule bring E[(rho-1)^2] to delta, from any start?

Trains on-policy R²VPO with every rule of r2vpo.dual from several first values of lambda, at a constant learning rate
so that only lambda moves the ratio variance, and counts the rollouts until its running level stays near delta.

    python scripts/dual_study.py --out benchmarks/method/dual_study
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from r2vpo.control import R2VPO, BaseCallback
from r2vpo.dual import DUAL_RULES
from r2vpo.runs.plotting import new_figure, save_figure
from r2vpo.runs.progress import LiveLine
from r2vpo.runs.provenance import provenance

WINDOW = 3
TOLERANCE = 0.25


@dataclass(frozen=True)
class Study:
    """Compare the dual rules."""

    env: tuple[str, ...] = ("HalfCheetah-v5", "Hopper-v5")
    """Tasks."""
    starts: tuple[float, ...] = (0.04, 1.0, 20.0)
    """First values of lambda; 0.04 is the paper's."""
    delta: float = 0.1
    """Target of E[(rho-1)^2]."""
    total_steps: int = 61_440
    """Environment steps of each run."""
    seed: int = 0
    """Seed of each run."""
    out: Path = Path("benchmarks/method/dual_study")
    """Results go to OUT.json and OUT.png."""


class Trace(BaseCallback):
    """Keeps lambda and the ratio variance of each iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.variance: list[float] = []
        self.lam: list[float] = []

    def _init_callback(self) -> None:
        update = self.model.learner.update

        def recording(*arguments: Any) -> dict[str, Any]:
            summary = update(*arguments)
            self.variance.append(summary["ratio_variance"])
            self.lam.append(summary["lam"])
            return summary

        self.model.learner.update = recording  # type: ignore[method-assign]


def rollouts_to_delta(variance: list[float], delta: float) -> int | None:
    """First rollout at which the mean of it and the next two is within the tolerance of delta; None if never."""
    means = np.convolve(variance, np.ones(WINDOW) / WINDOW, mode="valid")
    inside = np.abs(means / delta - 1.0) <= TOLERANCE
    return int(np.argmax(inside)) if inside.any() else None


def run(env: str, rule: str, start: float, study: Study) -> dict[str, Any]:
    """Train once and describe what lambda did."""
    trace = Trace()
    model = R2VPO(
        env, algo="on-policy", dual=rule, lam=start, delta=study.delta, lr_schedule="constant", seed=study.seed
    )
    model.learn(study.total_steps, callback=trace)
    second_half = np.array(trace.variance[len(trace.variance) // 2 :])
    return {
        "env": env,
        "rule": rule,
        "lam_start": start,
        "delta": study.delta,
        "seed": study.seed,
        "rollouts": len(trace.variance),
        "rollouts_to_delta": rollouts_to_delta(trace.variance, study.delta),
        "late_variance_over_delta": float(second_half.mean() / study.delta),
        "late_relative_deviation": float(np.abs(second_half / study.delta - 1.0).mean()),
        "return_last_20_episodes": float(np.mean(model.episodes.returns[-20:])),
        "variance": trace.variance,
        "lam": trace.lam,
    }


def draw(results: list[dict[str, Any]], study: Study) -> Path:
    """Ratio variance above, lambda below; one column a task."""
    figure, axes = new_figure(2, len(study.env), (6.0 * len(study.env), 7.0))
    styles = dict(zip(study.starts, ("-", "--", ":", "-."), strict=False))
    for result in results:
        column = study.env.index(result["env"])
        color, style = f"C{DUAL_RULES.index(result['rule'])}", styles[result["lam_start"]]
        label = f"{result['rule']}, from {result['lam_start']:g}"
        axes[0, column].plot(result["variance"], color=color, linestyle=style, label=label)
        axes[1, column].plot(np.maximum(result["lam"], 1e-3), color=color, linestyle=style)
    for column, env in enumerate(study.env):
        axes[0, column].axhline(study.delta, color="black", linewidth=0.8)
        axes[0, column].set_title(f"{env}: E[(ρ-1)²], δ = {study.delta:g}")
        axes[1, column].set_title("λ")
        for axis in axes[:, column]:
            axis.set_yscale("log")
            axis.set_xlabel("rollout")
    axes[0, 0].legend(fontsize=7, ncols=3)
    return save_figure(figure, study.out.with_suffix(".png"))


def main() -> None:
    """Run the study and print its table."""
    study = tyro.cli(Study)
    cells = [(env, rule, start) for env in study.env for rule in DUAL_RULES for start in study.starts]
    results = []
    with LiveLine(len(cells), "runs") as line:
        for env, rule, start in cells:
            results.append(run(env, rule, start, study))
            line.update(len(results), rule=rule, start=start)
    document = {
        "command": shlex.join(["python", *sys.argv]),
        "results": results,
        **provenance(),
    }
    study.out.parent.mkdir(parents=True, exist_ok=True)
    study.out.with_suffix(".json").write_text(json.dumps(document) + "\n")
    for r in results:
        print(
            f"{r['env']:16} {r['rule']:9} from {r['lam_start']:<5g} rollouts to delta {r['rollouts_to_delta']!s:>5}, "
            f"late variance / delta {r['late_variance_over_delta']:.2f}, deviation {r['late_relative_deviation']:.2f}"
        )
    print(draw(results, study))


if __name__ == "__main__":
    main()
