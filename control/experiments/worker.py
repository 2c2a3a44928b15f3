"""One run of a comparison in a process of its own: progress and the result on standard output, a JSON line each."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from r2vpo.control.callbacks import BaseCallback
from r2vpo.control.experiments.job import Job, describe_run
from r2vpo.control.presets import VARIANTS, config_dict
from r2vpo.runs.study import die_with_parent, say

if TYPE_CHECKING:
    from r2vpo.control.algorithm import R2VPO


def metric_traces(
    metrics: Sequence[dict[str, Any]], names: Sequence[str], total_steps: int, points: int
) -> dict[str, list[float | None]]:
    """Mean of each metric in each of ``points`` equal windows of steps.

    Args:
        metrics: Lines of metrics.jsonl; values that are missing or not finite do not count.
        names: Metrics to trace.
        total_steps: End of the last window; what a last rollout adds beyond it belongs to that window.
        points: How many windows; those of :meth:`r2vpo.control.evaluation.EpisodeLog.curve`.

    Returns:
        By name, a value for each window; None where nothing was recorded.
    """
    edges = np.linspace(0, total_steps, points + 1)
    windows: list[list[dict[str, Any]]] = [[] for _ in range(points)]
    for line in metrics:
        place = int(np.searchsorted(edges, line["step"], side="left")) - 1
        windows[min(max(place, 0), points - 1)].append(line)
    return {name: [_mean(window, name) for window in windows] for name in names}


def _mean(lines: Sequence[dict[str, Any]], name: str) -> float | None:
    values = [line[name] for line in lines if isinstance(line.get(name), int | float) and math.isfinite(line[name])]
    return float(np.mean(values)) if values else None


RETURN = "return"
"""Name of the figure that our runs show while they train: the mean of the last training episodes."""

TRACED = ("ratio_variance", "lam", "entropy")
"""Metrics that a line has traces of."""


def main(arguments: list[str]) -> int:
    """Arguments: the job as JSON, and the folder for our own runs."""
    import torch

    torch.set_num_threads(1)
    die_with_parent()
    job = Job(**json.loads(arguments[0]))
    try:
        line = run_ours(job, Path(arguments[1])) if job.algo in VARIANTS else run_peer(job)
    except KeyboardInterrupt:
        return 130
    say({"result": line})
    return 0


def run_ours(job: Job, folder: Path) -> dict[str, Any]:
    """Train or go on training one of our variants in its own run directory, and describe it.

    Raises:
        R2VPOError: Whatever ends a single run.
        KeyboardInterrupt: Asked to stop; the iteration under way is saved.
    """
    from r2vpo.control.algorithm import R2VPO
    from r2vpo.runs.directory import CONFIG

    run_dir = folder / job.folder
    if (run_dir / CONFIG).exists():
        model = R2VPO.resume(run_dir)
    else:
        model = R2VPO(job.env, seed=job.seed, run_dir=run_dir, **job.train_settings)
    try:
        model.learn(callback=_Progress())
        steps = model.num_timesteps
        say({"step": steps, "state": "evaluating"})
        line = describe_run(job, model.act, model.episodes, model.train_seconds, steps, config_dict(model.config))
        return line | {"run_dir": f"{folder.name}/{job.folder}", **_traces(model, job, len(line["steps"]))}
    finally:
        model.close()


def run_peer(job: Job) -> dict[str, Any]:
    """Train another library's algorithm, and describe it."""
    from r2vpo.control.experiments.peers import train_peer

    run = train_peer(job.algo, job.env, job.seed, job.total_steps, lambda step: say({"step": step}))
    say({"step": job.total_steps, "state": "evaluating"})
    return describe_run(job, run.act, run.episodes, run.train_seconds, job.total_steps, run.config)


def _traces(model: R2VPO, job: Job, points: int) -> dict[str, list[float | None]]:
    from r2vpo.runs.directory import read_metrics

    assert model.run is not None
    traces = metric_traces(read_metrics(model.run.path), TRACED, job.total_steps, points)
    if not model.learner.updater.objective.uses_dual:
        traces["lam"] = [None] * points  # The number that is recorded has no effect there.
    return traces


class _Progress(BaseCallback):
    def _on_rollout_start(self) -> None:
        recent = self.model.episodes.returns[-20:]
        say({"step": self.model.num_timesteps, "figures": {RETURN: float(np.mean(recent)) if recent else None}})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
