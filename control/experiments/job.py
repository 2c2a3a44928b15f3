"""What identifies one run: a cell of a study, or a seed of one setting."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass, field
from typing import Any

from r2vpo.control.experiments.commands import setting_words
from r2vpo.control.presets import VARIANTS
from r2vpo.runs.workers import Job as AnyJob
from r2vpo.runs.workers import Line

WORKER = "r2vpo.control.experiments.worker"


@dataclass(frozen=True)
class Job(AnyJob):
    """A cell of a study or a comparison."""

    worker = WORKER

    algo: str
    env: str
    seed: int
    total_steps: int
    eval_episodes: int = 20
    settings: dict[str, Any] = field(default_factory=dict, hash=False)
    """What overrides the preset; empty for other libraries' algorithms."""

    @classmethod
    def of_line(cls, line: Line) -> Job:
        """The job that a study line is the result of; lines from before there were settings had none."""
        identity = line["algo"], line["env"], line["seed"], line["total_steps"]
        return cls(*identity, line.get("eval_episodes", 20), line.get("settings", {}))

    @property
    def key(self) -> tuple[str, str, int, int, str]:
        """The number of evaluation episodes is no part of it."""
        return self.algo, self.env, self.seed, self.total_steps, _canonical(self.settings)

    @property
    def name(self) -> str:
        """The algorithm, and the settings it differs in."""
        return " ".join([self.algo, *setting_words(self.settings)])

    @property
    def title(self) -> str:
        """Name, task and seed, for people."""
        return f"{self.name} {self.env}, seed {self.seed}"

    @property
    def size(self) -> int:
        """Environment steps."""
        return self.total_steps

    @property
    def folder(self) -> str:
        """Name of its run directory."""
        name = f"{self.algo}-{self.env.replace('/', '-').replace(':', '-')}-seed{self.seed}-{self.total_steps}"
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
        """Arguments of our trainer; the algorithm's preset fills in the others."""
        own = VARIANTS[self.algo] | self.settings
        run = {"env": self.env, "seed": self.seed, "total_steps": self.total_steps, "eval_episodes": 0}
        return _from_json(run | {"env_threads": 1} | own)


@dataclass(frozen=True)
class SeedJob(AnyJob):
    """One seed of a setting."""

    worker = WORKER

    seed: int
    settings: dict[str, Any]
    """Every other field of ControlConfig."""

    @classmethod
    def of_line(cls, line: Line) -> SeedJob:
        """The lines of one folder differ by their seed alone."""
        return cls(line["seed"], {})

    @property
    def key(self) -> int:
        """The seed."""
        return self.seed

    @property
    def title(self) -> str:
        """For people."""
        return f"seed {self.seed}"

    @property
    def size(self) -> int:
        """Environment steps."""
        return int(self.settings["total_steps"])

    @property
    def folder(self) -> str:
        """Name of its run directory."""
        return f"seed{self.seed}"

    @property
    def train_settings(self) -> dict[str, Any]:
        """Arguments of our trainer."""
        return _from_json(self.settings | {"seed": self.seed})


def _from_json(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as a single run has them; JSON has no tuples."""
    sizes = settings.get("hidden_sizes")
    return settings if sizes is None else settings | {"hidden_sizes": tuple(sizes)}


def _canonical(settings: dict[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True) if settings else ""
