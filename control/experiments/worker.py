"""One run in a process of its own: a cell of a study, ours or another library's, or a seed of one setting."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from r2vpo.control.callbacks import BaseCallback, Model
from r2vpo.control.evaluation import EVALUATION_SEED, BatchPolicy, EpisodeLog, evaluate_policy
from r2vpo.control.experiments.job import Job, SeedJob
from r2vpo.control.presets import VARIANTS, config_dict
from r2vpo.envs.making import env_with
from r2vpo.runs.directory import CONFIG, newest_metrics, read_metrics
from r2vpo.runs.provenance import provenance
from r2vpo.runs.workers import Line, say, serve

if TYPE_CHECKING:
    from r2vpo.control.algorithm import R2VPO

TRACED = ("ratio_variance", "lam", "entropy")
"""Metrics that a study line has traces of."""


def job_of(**fields: Any) -> Job | SeedJob:
    """A job from its fields; only a cell of a study names an algorithm."""
    return Job(**fields) if "algo" in fields else SeedJob(**fields)


def run(job: Job | SeedJob, folder: Path) -> Line:
    """Train or go on training, and describe the result.

    Args:
        job: What to train.
        folder: Of our own run directories.

    Returns:
        A study line, or for a seed its number and last figures.

    Raises:
        R2VPOError: Whatever ends a single run.
        KeyboardInterrupt: Asked to stop; the iteration under way is saved.
    """
    if isinstance(job, Job) and job.algo not in VARIANTS:
        return run_peer(job)
    from r2vpo.control.algorithm import R2VPO

    run_dir = folder / job.folder
    begun = (run_dir / CONFIG).exists()
    model = R2VPO.resume(run_dir) if begun else R2VPO(run_dir=run_dir, **job.train_settings)
    try:
        model.learn(callback=_Progress())
        if isinstance(job, SeedJob):
            return {"seed": job.seed, "figures": figures_of(model)}
        steps = model.num_timesteps
        line = describe_run(job, model.act, model.episodes, model.train_seconds, steps, config_dict(model.config))
        metrics = read_metrics(run_dir)
        traces = _traces(model, job, metrics, len(line["steps"]))
        return line | {"run_dir": f"{folder.name}/{job.folder}", **traces, **evaluations(metrics)}
    finally:
        model.close()


def run_peer(job: Job) -> Line:
    """Train another library's algorithm, and describe it."""
    import torch

    from r2vpo.control.experiments.peers import train_peer

    torch.set_num_threads(1)
    trained = train_peer(job.algo, job.env, job.seed, job.total_steps, say)
    say(job.total_steps, "evaluating")
    return describe_run(job, trained.act, trained.episodes, trained.train_seconds, job.total_steps, trained.config)


def describe_run(
    job: Job, act: Any, episodes: EpisodeLog, train_seconds: float, steps_done: int, config: dict[str, Any]
) -> Line:
    """Evaluate deterministically and stochastically, and return the study line.

    Args:
        job: Identity of the run.
        act: ``act(deterministic)`` gives a :data:`BatchPolicy` on raw observations.
        episodes: Training episodes.
        train_seconds: Wall-clock seconds of training alone.
        steps_done: Environment steps really taken.
        config: Every setting of the algorithm.

    Returns:
        Identity, scores, curve, speed and provenance; ``success_rate`` only where the task tells success.
    """
    policies: dict[str, BatchPolicy] = {"deterministic": act(True), "stochastic": act(False)}
    env = env_with(job.env, config.get("env_kwargs", {}))
    results = {
        kind: evaluate_policy(policy, env, job.eval_episodes, EVALUATION_SEED + job.seed)
        for kind, policy in policies.items()
    }
    steps, returns = episodes.curve(job.total_steps)
    rate = results["deterministic"].success_rate
    return {
        **asdict(job),
        "eval_return_mean": results["deterministic"].mean,
        "eval_return_std": results["deterministic"].std,
        "eval_returns": results["deterministic"].returns,
        "eval_return_mean_stochastic": results["stochastic"].mean,
        "eval_returns_stochastic": results["stochastic"].returns,
        **({} if rate is None else {"success_rate": rate}),
        "steps": steps,
        "returns": returns,
        "wall_seconds": train_seconds,
        "steps_per_second": steps_done / train_seconds,
        "config": config,
        "command": job.command,
        **provenance(),
    }


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


def evaluations(metrics: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Steps and mean returns of the evaluations while training, by the mean action and by sampled ones.

    Args:
        metrics: Lines of metrics.jsonl.

    Returns:
        Lists of one length; nothing where there was no evaluation.
    """
    lines = [line for line in metrics if "eval_return_mean" in line]
    names = {"evaluation_steps": "step", "evaluation_returns": "eval_return_mean"}
    names["evaluation_returns_stochastic"] = "eval_return_mean_stochastic"
    return {name: [line[metric] for line in lines] for name, metric in names.items()} if lines else {}


def _traces(model: R2VPO, job: Job, metrics: Sequence[dict[str, Any]], points: int) -> dict[str, list[float | None]]:
    traces = metric_traces(metrics, TRACED, job.total_steps, points)
    if not model.learner.updater.objective.uses_dual:
        traces["lam"] = [None] * points  # The number that is recorded has no effect there.
    return traces


def figures_of(model: Model) -> dict[str, float | None]:
    """What a run shows while it trains; lambda only where the objective has one."""
    assert model.run is not None
    metrics = newest_metrics(model.run.path)
    uses_dual = model.learner.updater.objective.uses_dual
    lam = {"lambda": metrics.get("lam")} if uses_dual else {}
    return {"return": metrics.get("return"), "ratio variance": metrics.get("ratio_variance"), **lam}


class _Progress(BaseCallback):
    def _on_rollout_start(self) -> None:
        say(self.model.num_timesteps, "training", figures_of(self.model))

    def _on_training_end(self) -> None:
        end = self.model.schedule_start + self.model.config.total_steps
        state = "evaluating" if self.model.num_timesteps >= end else "training"
        say(self.model.num_timesteps, state, figures_of(self.model))


if __name__ == "__main__":
    sys.exit(serve(job_of, run))
