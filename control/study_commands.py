"""Arguments of ``r2vpo control study``."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from r2vpo.envs.tasks.table import TASKS

Videos = Literal["none", "best-worst"]


@dataclass(frozen=True)
class StudyCommand:
    """Train algorithms on tasks and seeds, each cell once, and evaluate all of them alike.

    Algorithms are those of r2vpo control compare. Interrupted or killed, the same command goes on where it stopped,
    and so does --resume; a changed command on the same folder adds cells to those that are there.
    """

    env: tuple[str, ...] = tuple(task.id for task in TASKS)
    """Gymnasium ids."""
    algos: tuple[str, ...] = ("r2vpo-on", "r2vpo-off", "ppo", "ppo-replay", "spo", "sb3-ppo")
    """Algorithms; sb3-sac, sb3-td3 and sb3-trpo on request."""
    seeds: int = 5
    """How many seeds, --first-seed and those that follow it."""
    first_seed: int = 0
    """Tune on other seeds than those that are reported."""
    total_steps: int = 500_000
    """Environment steps of each run."""
    set: tuple[str, ...] = ()
    """NAME=VALUE ...: settings of r2vpo control train that override the preset, for our own algorithms."""
    episodes: int = 20
    """Evaluation episodes, deterministic and again stochastic."""
    out: Path = Path("runs/study")
    """Folder for the list, runs, results, table and picture."""
    resume: Path | None = None
    """Folder of a study to go on with, instead of the arguments above."""
    workers: int = 2
    """Runs at a time, one torch thread each."""
    videos: Videos = "none"
    """best-worst: film the best and the worst seed of each task and each of our algorithms at the end."""
    list: bool = False
    """Only print the cells, their state and the time left."""
    quiet: bool = False
    """No live table."""

    @property
    def text(self) -> str:
        """The command that asks for these cells."""
        words = ["r2vpo", "control", "study", "--env", *self.env, "--algos", *self.algos]
        words += ["--seeds", str(self.seeds), "--first-seed", str(self.first_seed)]
        words += ["--total-steps", str(self.total_steps), "--episodes", str(self.episodes)]
        if self.set:
            words += ["--set", *self.set]
        return shlex.join([*words, "--out", str(self.out)])


@dataclass(frozen=True)
class StudyResumeCommand:
    """Go on with a study that was stopped or killed, and try again what failed."""

    resume: Path
    """Its folder."""
    workers: int | None = None
    """Runs at a time; as before when not given."""
    videos: Videos | None = None
    """Which policies to film at the end; as before when not given."""
    list: bool = False
    """Only print the cells, their state and the time left."""
    quiet: bool = False
    """No live table."""
