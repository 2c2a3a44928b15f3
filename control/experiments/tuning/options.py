"""Arguments of ``r2vpo control tune``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class TuneCommand:
    """Search for settings with Optuna, and write those that did best as a file for r2vpo control train --config.

    Several --algos get a search each, with the same space, the same number of trials, steps and seeds, and the same
    sampler. Interrupted or killed, the same command goes on where it stopped; more --trials go on from there as well.
    """

    env: str = "HalfCheetah-v5"
    """Gymnasium id."""
    algos: tuple[str, ...] = ("r2vpo-off",)
    """Methods, by their names in r2vpo control compare; each of ours is tuned by itself with the whole budget."""
    trials: int = 20
    """Trials of each method."""
    total_steps: int = 100_000
    """Environment steps of a training."""
    seeds: int = 1
    """Trainings of a trial; their mean is its score."""
    first_seed: int = 100
    """Of those trainings; choose others for what is reported."""
    episodes: int = 10
    """Of the evaluation that gives the score: the mean return by the mean action."""
    space: Path | None = None
    """YAML or JSON file of what each setting may be; by default that which is written to space.yaml."""
    set: tuple[str, ...] = ()
    """Settings that are the same in every trial, as NAME=VALUE."""
    sampler: Literal["tpe", "random", "qmc"] = "tpe"
    """What chooses: a model of the trials so far, chance, or a quasi-random grid."""
    pruner: Literal["none", "median", "hyperband", "halving"] = "none"
    """What ends trials that do badly on the way. Methods then take unequal numbers of steps: the table shows them."""
    workers: int = 1
    """Trials at a time, a process and a core each."""
    out: Path = Path("runs/tune")
    """Folder for the trials, the best settings, the table and the pictures."""
    storage: str | None = None
    """Where Optuna keeps the trials: a URL such as sqlite:///trials.db; by default a journal in --out."""
    json: Path | None = None
    """Also write the results to this file."""
    quiet: bool = False
    """No live line."""
