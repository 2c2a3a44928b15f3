"""One seed of a setting in a process of its own: progress and figures on standard output, a JSON line each."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2vpo.control.callbacks import BaseCallback
from r2vpo.errors import R2VPOError
from r2vpo.runs.study import die_with_parent, say

RETURN, RATIO_VARIANCE, LAMBDA = "return", "ratio variance", "lambda"
"""Names of the figures that a seed shows while it trains."""

_TAIL_BYTES = 16_384
"""More than one line of metrics.jsonl."""


@dataclass(frozen=True)
class SeedJob:
    """One seed to train."""

    seed: int
    settings: dict[str, Any]
    """Every other field of ControlConfig."""


def main(arguments: list[str]) -> int:
    """Arguments: the job as JSON, and the folder that holds the run directories."""
    die_with_parent()
    job = SeedJob(**json.loads(arguments[0]))
    try:
        figures = train_seed(job, Path(arguments[1]))
    except KeyboardInterrupt:
        return 130
    except R2VPOError as error:
        print(error, file=sys.stderr)
        return 1
    say({"result": {"seed": job.seed, "figures": figures}})
    return 0


def seed_directory(folder: Path, seed: int) -> Path:
    """Run directory of one seed."""
    return folder / f"seed{seed}"


def train_seed(job: SeedJob, folder: Path) -> dict[str, float | None]:
    """Train or go on training one seed in its own run directory.

    Returns:
        Its last figures.

    Raises:
        R2VPOError: Whatever ends a single run.
        KeyboardInterrupt: Asked to stop; the iteration under way is saved.
    """
    from r2vpo.control.algorithm import R2VPO
    from r2vpo.runs.directory import CONFIG

    path = seed_directory(folder, job.seed)
    if (path / CONFIG).exists():
        model = R2VPO.resume(path)
    else:
        # JSON has no tuples, and the run's settings are to equal those of a single run.
        settings = job.settings | {"hidden_sizes": tuple(job.settings["hidden_sizes"])}
        model = R2VPO(seed=job.seed, run_dir=path, **settings)
    try:
        model.learn(callback=_Reporter())
        return figures_of(newest_metrics(path), model.learner.updater.objective.uses_dual)
    finally:
        model.close()


def newest_metrics(run_dir: Path) -> dict[str, Any]:
    """The last whole line of a run's metrics.jsonl, without reading the others; empty where there is none."""
    from r2vpo.runs.directory import METRICS

    path = run_dir / METRICS
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = file.read().split(b"\n")
    return dict(json.loads(lines[-2])) if len(lines) > 1 else {}


def figures_of(metrics: dict[str, Any], uses_dual: bool) -> dict[str, float | None]:
    """The figures shown of one line of metrics; lambda only where the objective has one."""
    return {
        RETURN: metrics.get("return"),
        RATIO_VARIANCE: metrics.get("ratio_variance"),
        LAMBDA: metrics.get("lam") if uses_dual else None,
    }


class _Reporter(BaseCallback):
    def _on_training_start(self) -> None:
        self._say("training")

    def _on_rollout_start(self) -> None:
        self._say("training")

    def _on_training_end(self) -> None:
        model = self.model
        finished = model.num_timesteps >= model.schedule_start + model.config.total_steps
        self._say("evaluating" if finished else "training")

    def _say(self, state: str) -> None:
        model = self.model
        assert model.run is not None
        figures = figures_of(newest_metrics(model.run.path), model.learner.updater.objective.uses_dual)
        say({"step": model.num_timesteps, "state": state, "figures": figures})


if __name__ == "__main__":
    # Before torch is imported; it reads the variable then.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(sys.argv[1:]))
