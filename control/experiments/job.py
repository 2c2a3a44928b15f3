"""One cell of a comparison: train, evaluate, and describe the result as one JSON line."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import asdict, dataclass, field
from typing import Any

from r2vpo.control.evaluation import BatchPolicy, EpisodeLog, evaluate_policy
from r2vpo.control.experiments.commands import setting_words
from r2vpo.control.presets import VARIANTS
from r2vpo.runs.provenance import machine_description, package_versions, source_commit

EVALUATION_SEED = 1_000_000
"""First reset seed of evaluation episodes; training seeds are small, so the two never meet."""

Key = tuple[str, str, int, int, str]


@dataclass(frozen=True)
class Job:
    """What identifies one run of a comparison."""

    algo: str
    env: str
    seed: int
    total_steps: int
    eval_episodes: int = 20
    settings: dict[str, Any] = field(default_factory=dict, hash=False)
    """What overrides the preset; empty for other libraries' algorithms."""

    @classmethod
    def of_line(cls, line: dict[str, Any]) -> Job:
        """The job that a study line is the result of; lines from before there were settings had none."""
        identity = line["algo"], line["env"], line["seed"], line["total_steps"]
        return cls(*identity, line.get("eval_episodes", 20), line.get("settings", {}))

    @property
    def key(self) -> Key:
        """Two lines with the same key are the same experiment."""
        return self.algo, self.env, self.seed, self.total_steps, _canonical(self.settings)

    @property
    def name(self) -> str:
        """The algorithm, and the settings it differs in."""
        return " ".join([self.algo, *setting_words(self.settings)])

    @property
    def label(self) -> str:
        """Name, task and seed, for people."""
        return f"{self.name} {self.env}, seed {self.seed}"

    @property
    def folder(self) -> str:
        """Name of its run directory."""
        name = f"{self.algo}-{self.env.replace('/', '-')}-seed{self.seed}-{self.total_steps}"
        if not self.settings:
            return name
        return f"{name}-{hashlib.sha256(_canonical(self.settings).encode()).hexdigest()[:8]}"

    @property
    def command(self) -> str:
        """How to run this one cell again, in a folder of its own."""
        words = ["r2vpo", "control", "study", "--env", self.env, "--algos", self.algo]
        words += ["--first-seed", str(self.seed), "--seeds", "1", "--total-steps", str(self.total_steps)]
        words += ["--episodes", str(self.eval_episodes)]
        if self.settings:
            words += ["--set", *setting_words(self.settings)]
        return shlex.join([*words, "--out", f"runs/rerun/{self.folder}"])

    @property
    def train_settings(self) -> dict[str, Any]:
        """Arguments of our trainer besides environment and seed; the algorithm's preset fills in the others."""
        settings = {"total_steps": self.total_steps, "eval_episodes": 0, "env_threads": 1}
        settings |= VARIANTS[self.algo] | self.settings
        if "hidden_sizes" in settings:  # JSON has no tuples
            settings["hidden_sizes"] = tuple(settings["hidden_sizes"])
        return settings


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

    Returns:
        Identity, scores, curve, speed and provenance; ``success_rate`` only where the task tells success.
    """
    policies: dict[str, BatchPolicy] = {"deterministic": act(True), "stochastic": act(False)}
    results = {
        kind: evaluate_policy(policy, job.env, job.eval_episodes, EVALUATION_SEED + job.seed)
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
        "versions": package_versions(),
        "machine": machine_description(),
        "commit": source_commit(),
    }


def _canonical(settings: dict[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True) if settings else ""
