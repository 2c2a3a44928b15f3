"""Arguments of ``r2vpo control``. Needs no torch, so that ``--help`` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from r2vpo.control.config import ControlConfig


@dataclass(frozen=True)
class TrainCommand(ControlConfig):
    """Train an agent. Defaults are the preset of the algorithm; give --algo or --preset to see another's in --help."""

    run_dir: Path | None = None
    """Where everything is written; named after task, algorithm, seed and time when not given."""
    resume: Path | None = None
    """Run directory to go on with, instead of starting a run. Its own settings hold; no others can be given."""
    seeds: int = 1
    """Train this many seeds, --seed and those that follow it, each in a process of its own and as many at a time as
    there are cores; one directory with a run directory for each, their summary and their picture."""
    video: bool = False
    """Film the trained agent at the end."""
    quiet: bool = False
    """No live line."""
    json: Path | None = None
    """Also write the summary to this file."""


@dataclass(frozen=True)
class ResumeCommand:
    """Go on with a run that was stopped or killed, with the settings it had."""

    resume: Path
    """The run directory."""
    video: bool = False
    """Film the trained agent at the end."""
    quiet: bool = False
    """No live line."""
    json: Path | None = None
    """Also write the summary to this file."""


@dataclass(frozen=True)
class EvaluateCommand:
    """Evaluate a trained agent."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory, or a file written by save()."""
    episodes: int = 20
    """Complete episodes, each in a fresh environment."""
    stochastic: bool = False
    """Sample actions instead of taking the mean."""
    seed: int | None = None
    """First reset seed; by default one derived from the training seed."""
    video: bool = False
    """Film one episode into video.mp4 beside the run."""
    json: Path | None = None
    """Also write the result to this file."""


@dataclass(frozen=True)
class CompareCommand:
    """Train several algorithms on the same tasks, steps and seeds, and evaluate all of them alike.

    Ours: r2vpo-off (also r2vpo), r2vpo-on, ppo, ppo-replay, clip_higher, gppo, topr, spo, cispo, gspo, none; and for
    speed r2vpo-off-overlap, r2vpo-on-overlap, r2vpo-fast, ppo-fast.
    Stable-Baselines3 and sb3-contrib where installed: sb3-ppo, sb3-trpo, sb3-sac, sb3-td3; and SB3's PPO with our
    objective in place of its own, r2vpo-sb3, and with replay besides, r2vpo-sb3-off.
    Interrupted, the same command goes on where it stopped.
    """

    env: tuple[str, ...] = ("HalfCheetah-v5",)
    """Gymnasium ids."""
    algos: tuple[str, ...] = ("r2vpo-on", "r2vpo-off", "ppo", "sb3-ppo")
    """Algorithms, by the names above."""
    seeds: int = 5
    """Seeds 0 to N-1."""
    total_steps: int = 300_000
    """Environment steps of each run."""
    out: Path = Path("runs/compare")
    """Folder for runs, results, table and picture."""
    workers: int = 2
    """Runs at a time, one torch thread each."""
    episodes: int = 20
    """Evaluation episodes, deterministic and again stochastic."""
    json: Path | None = None
    """Also write the comparison to this file."""
    quiet: bool = field(default=False)
    """No live line."""
