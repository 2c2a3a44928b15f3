"""How much of what an update gains on its own data does the policy keep on new data?

An update raises E[(rho - 1) A] over the samples that it learns from; it is measured on the newest of them, and again on
the rollout that the changed policy collects next, where it is what was really gained. Both are in standard deviations
of the advantage. Where the first is far above the second, the update has followed the noise of its samples.

    python scripts/update_gain.py --out benchmarks/method/update_gain
"""

from __future__ import annotations

import copy
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from r2vpo.advantages import standardised
from r2vpo.control import R2VPO, BaseCallback
from r2vpo.control.collector import Rollout
from r2vpo.control.policy import GaussianPolicy
from r2vpo.control.presets import VARIANTS
from r2vpo.runs.plotting import new_figure, save_figure
from r2vpo.runs.progress import LiveLine
from r2vpo.runs.provenance import provenance

WINDOWS = 20
PANELS = (
    ("in_sample", "gain on the samples of the update"),
    ("held_out", "gain on the next rollout"),
    ("fresh_advantage", "mean advantage of new samples"),
    ("entropy", "entropy (nats)"),
    ("return", "training return, last 20 episodes"),
)


FORMER = {"log_std_init": 0.0, "estimates": 1}
RECIPES: dict[str, dict[str, Any]] = {
    "off-policy, estimated once": FORMER,
    "off-policy": {},
    "on-policy": VARIANTS["r2vpo-on"],
    "ppo-best": VARIANTS["ppo-best"],
}


@dataclass(frozen=True)
class Study:
    """Compare recipes."""

    env: tuple[str, ...] = ("HalfCheetah-v5", "Walker2d-v5")
    """Tasks."""
    recipes: tuple[str, ...] = tuple(RECIPES)
    """Names of recipes."""
    total_steps: int = 200_000
    """Environment steps of each run."""
    seeds: tuple[int, ...] = (105, 106)
    """Seeds of the runs."""
    out: Path = Path("benchmarks/method/update_gain")
    """Results go to OUT.json and OUT.png."""


class GainTrace(BaseCallback):
    """Measures both gains of each update; training itself is left as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, float]] = []
        self._previous: GaussianPolicy | None = None

    def _init_callback(self) -> None:
        update = self.model.learner.update

        def measured(rollout: Rollout, *arguments: Any) -> dict[str, Any]:
            estimator = self.model.learner.estimator
            raw = estimator.estimate(estimator.lay_out([rollout], stale=0))["advantage"]
            advantage, batch = standardised(raw), _batch(rollout)
            held_out = self._held_out(batch, advantage)
            acting = copy.deepcopy(self.model.policy)
            summary = update(rollout, *arguments)
            in_sample = _gain(acting, self.model.policy, batch, advantage, forward=True)
            recent = self.model.episodes.returns[-20:]
            self._previous = acting
            self.lines.append(
                {
                    "in_sample": in_sample,
                    "held_out": held_out,
                    "fresh_advantage": float(raw.mean() / raw.std()),
                    "entropy": summary["entropy"],
                    "return": float(np.mean(recent)) if recent else float("nan"),
                }
            )
            return summary

        self.model.learner.update = measured  # type: ignore[method-assign]

    def _held_out(self, batch: dict[str, torch.Tensor], advantage: torch.Tensor) -> float:
        """Gain of the last update on data that it has not seen: ``rollout`` is the first by the changed policy."""
        if self._previous is None:
            return float("nan")
        return _gain(self._previous, self.model.policy, batch, advantage, forward=False)


def _batch(rollout: Rollout) -> dict[str, torch.Tensor]:
    return {name: rollout[name].flatten(0, 1) for name in ("observations", "actions")}


@torch.no_grad()
def _gain(
    before: GaussianPolicy,
    after: GaussianPolicy,
    batch: dict[str, torch.Tensor],
    advantage: torch.Tensor,
    *,
    forward: bool,
) -> float:
    """Difference of the mean advantage between two policies, in standard deviations of the advantage.

    ``forward``: the batch is of ``before``, E[(after/before - 1) A]. Else it is of ``after``, E[(1 - before/after) A].
    """
    log_ratio = after.log_prob(batch) - before.log_prob(batch)
    weight = log_ratio.exp() - 1.0 if forward else 1.0 - (-log_ratio).exp()
    return float((weight * advantage).mean())


def _mean(values: list[float]) -> float | None:
    """Mean of those that are numbers; None where there are none, as before the first episode ends."""
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else None


def run(env: str, recipe: str, seed: int, total_steps: int) -> dict[str, Any]:
    """Train once and sum up: curves over windows, and what the run gained on new data in all."""
    trace = GainTrace()
    model = R2VPO(env, **RECIPES[recipe], seed=seed, total_steps=total_steps)
    model.learn(callback=trace)
    model.close()
    size = model.config.rollout_size
    windows = np.array_split(np.arange(len(trace.lines)), WINDOWS)
    steps = [int((window[-1] + 1) * size) for window in windows]
    curves = {name: [_mean([trace.lines[i][name] for i in window]) for window in windows] for name, _ in PANELS}
    held_out = np.array(curves["held_out"], dtype=float) / size * 1e6
    return {
        "env": env,
        "recipe": recipe,
        "seed": seed,
        "rollout_size": size,
        "held_out_per_million_steps": float(held_out.mean()),
        "standard_error": float(held_out.std(ddof=1) / WINDOWS**0.5),
        "steps": steps,
        **curves,
    }


def draw(results: list[dict[str, Any]], study: Study) -> Path:
    """A row a task, a column a quantity, a colour a recipe."""
    figure, axes = new_figure(len(study.env), len(PANELS), (4.0 * len(PANELS), 3.2 * len(study.env)))
    for result in results:
        for column, (name, title) in enumerate(PANELS):
            axis = axes[study.env.index(result["env"]), column]
            label = result["recipe"] if result["seed"] == study.seeds[0] else None
            color = f"C{study.recipes.index(result['recipe'])}"
            axis.plot(result["steps"], np.array(result[name], dtype=float), color=color, label=label)
            axis.set_title(f"{result['env']}: {title}", fontsize=9)
            axis.set_xlabel("environment steps")
    axes[0, 0].legend(fontsize=8)
    return save_figure(figure, study.out.with_suffix(".png"))


def write(results: list[dict[str, Any]], study: Study) -> None:
    """Write what is there, after each run."""
    document = {
        "command": shlex.join(["python", *sys.argv]),
        "total_steps": study.total_steps,
        "recipes": {name: RECIPES[name] for name in study.recipes},
        "results": results,
        **provenance(),
    }
    study.out.parent.mkdir(parents=True, exist_ok=True)
    study.out.with_suffix(".json").write_text(json.dumps(document) + "\n")


def main() -> None:
    """Run the study, print its table, draw its picture."""
    study = tyro.cli(Study)
    cells = [(env, recipe, seed) for env in study.env for recipe in study.recipes for seed in study.seeds]
    results: list[dict[str, Any]] = []
    with LiveLine(len(cells), "runs") as line:
        for env, recipe, seed in cells:
            results.append(run(env, recipe, seed, study.total_steps))
            write(results, study)
            line.update(len(results), env=env, recipe=recipe, seed=seed)
    for r in results:
        means = {name: np.mean([x for x in r[name] if x is not None]) for name, _ in PANELS}
        print(
            f"{r['env']:16} {r['recipe']:28} seed {r['seed']}: in-sample {means['in_sample']:.4f}, held-out "
            f"{means['held_out']:.4f} an update, {r['held_out_per_million_steps']:.2f} ± {r['standard_error']:.2f} "
            f"a million steps; entropy {r['entropy'][-1]:.2f}, return {r['return'][-1]:.0f}"
        )
    print(draw(results, study))


if __name__ == "__main__":
    main()
