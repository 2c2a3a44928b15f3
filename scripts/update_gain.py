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


@dataclass(frozen=True)
class Study:
    """Compare sizes of the replay buffer."""

    env: tuple[str, ...] = ("HalfCheetah-v5", "Walker2d-v5")
    """Tasks."""
    buffers: tuple[int, ...] = (2, 4, 8)
    """Iterations in the buffer."""
    total_steps: int = 200_000
    """Environment steps of each run."""
    seed: int = 105
    """Seed of each run."""
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


def run(env: str, buffer: int, study: Study) -> dict[str, Any]:
    """Train once with the off-policy preset and this buffer."""
    trace = GainTrace()
    model = R2VPO(env, buffer_iterations=buffer, seed=study.seed, total_steps=study.total_steps)
    model.learn(callback=trace)
    model.close()
    windows = np.array_split(np.arange(len(trace.lines)), WINDOWS)
    steps = [int((window[-1] + 1) * model.config.rollout_size) for window in windows]
    curves = {name: [_mean([trace.lines[i][name] for i in window]) for window in windows] for name, _ in PANELS}
    return {"env": env, "buffer_iterations": buffer, "seed": study.seed, "steps": steps, **curves}


def draw(results: list[dict[str, Any]], study: Study) -> Path:
    """A row a task, a column a quantity, a colour a size of the buffer."""
    figure, axes = new_figure(len(study.env), len(PANELS), (4.0 * len(PANELS), 3.2 * len(study.env)))
    for result in results:
        for column, (name, title) in enumerate(PANELS):
            axis = axes[study.env.index(result["env"]), column]
            color = f"C{study.buffers.index(result['buffer_iterations'])}"
            axis.plot(
                result["steps"],
                np.array(result[name], dtype=float),
                color=color,
                label=f"{result['buffer_iterations']} iterations",
            )
            axis.set_title(f"{result['env']}: {title}", fontsize=9)
            axis.set_xlabel("environment steps")
    axes[0, 0].legend(fontsize=8)
    return save_figure(figure, study.out.with_suffix(".png"))


def write(results: list[dict[str, Any]], study: Study) -> None:
    """Write what is there, after each run."""
    document = {
        "command": shlex.join(["python", *sys.argv]),
        "total_steps": study.total_steps,
        "results": results,
        **provenance(),
    }
    study.out.parent.mkdir(parents=True, exist_ok=True)
    study.out.with_suffix(".json").write_text(json.dumps(document) + "\n")


def main() -> None:
    """Run the study, print its table, draw its picture."""
    study = tyro.cli(Study)
    cells = [(env, buffer) for env in study.env for buffer in study.buffers]
    results: list[dict[str, Any]] = []
    with LiveLine(len(cells), "runs") as line:
        for env, buffer in cells:
            results.append(run(env, buffer, study))
            write(results, study)
            line.update(len(results), env=env, buffer=buffer)
    for r in results:
        late = {name: np.mean([x for x in r[name][WINDOWS // 2 :] if x is not None]) for name, _ in PANELS}
        print(
            f"{r['env']:16} buffer of {r['buffer_iterations']}, second half: in-sample {late['in_sample']:.4f}, "
            f"held-out {late['held_out']:.4f}, fresh advantage {late['fresh_advantage']:+.2f}, "
            f"entropy {late['entropy']:.2f}, return {late['return']:.0f}"
        )
    print(draw(results, study))


if __name__ == "__main__":
    main()
