"""One cell of a comparison: train, evaluate, and describe the result as one JSON line."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from r2vpo.control.curves import EpisodeLog
from r2vpo.control.evaluation import BatchPolicy, evaluate_policy
from r2vpo.provenance import machine_description, package_versions, source_commit

EVALUATION_SEED = 1_000_000
"""First reset seed of evaluation episodes; training seeds are small, so the two never meet."""


@dataclass(frozen=True)
class Job:
    """What identifies one run of a comparison."""

    algo: str
    env: str
    seed: int
    total_steps: int
    eval_episodes: int = 20

    @property
    def key(self) -> tuple[str, str, int, int]:
        """Two lines with the same key are the same experiment."""
        return self.algo, self.env, self.seed, self.total_steps


def describe_run(
    job: Job,
    act: Any,
    episodes: EpisodeLog,
    train_seconds: float,
    steps_done: int,
    config: dict[str, Any],
) -> dict[str, Any]:
    """Evaluate deterministically and stochastically, and return the study line.

    Args:
        job: Identity of the run.
        act: ``act(deterministic)`` gives a :data:`BatchPolicy` on raw observations.
        episodes: Training episodes.
        train_seconds: Wall-clock seconds of training alone.
        steps_done: Environment steps really taken.
        config: Every setting of the algorithm.
    """
    policies: dict[str, BatchPolicy] = {"deterministic": act(True), "stochastic": act(False)}
    results = {
        kind: evaluate_policy(policy, job.env, job.eval_episodes, EVALUATION_SEED + job.seed)
        for kind, policy in policies.items()
    }
    steps, returns = episodes.curve(job.total_steps)
    return {
        **asdict(job),
        "eval_return_mean": results["deterministic"].mean,
        "eval_return_std": results["deterministic"].std,
        "eval_returns": results["deterministic"].returns,
        "eval_return_mean_stochastic": results["stochastic"].mean,
        "eval_returns_stochastic": results["stochastic"].returns,
        "steps": steps,
        "returns": returns,
        "wall_seconds": train_seconds,
        "steps_per_second": steps_done / train_seconds,
        "config": config,
        "versions": package_versions(),
        "machine": machine_description(),
        "commit": source_commit(),
    }
