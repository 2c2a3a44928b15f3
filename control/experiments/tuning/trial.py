"""One trial, in a process of its own: train on each seed, tell on the way how it goes, and evaluate."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from r2vpo.control.callbacks.base import BaseCallback
from r2vpo.control.evaluation import EVALUATION_SEED
from r2vpo.errors import ConfigError, R2VPOError

REPORTS = 10
"""How often a training says how it goes."""


@dataclass(frozen=True)
class Trial:
    """What a process needs to know of a trial."""

    storage: str
    study: str
    number: int
    id: int
    settings: dict[str, Any]
    """Of the training, without its seed."""
    seeds: tuple[int, ...]
    episodes: int


def open_storage(where: str) -> optuna.storages.BaseStorage:
    """A journal in a file, or a database by its URL."""
    if "://" in where:
        return optuna.storages.get_storage(where)
    return JournalStorage(JournalFileBackend(where))


def run(trial: Trial) -> tuple[float | None, int, str]:
    """Train and evaluate.

    Returns:
        The score, or None where the trial was ended early; environment steps taken; and why it was ended.
    """
    from r2vpo.control.algorithm import R2VPO

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(study_name=trial.study, storage=open_storage(trial.storage), pruner=_pruner_of(trial))
    handle = optuna.trial.Trial(study, trial.id)
    scores: list[float] = []
    taken = 0
    for index, seed in enumerate(trial.seeds):
        try:
            model = R2VPO(**trial.settings, seed=seed)
        except ConfigError as error:  # settings that do not fit each other
            return None, taken, str(error)
        progress = _Progress(handle, index * REPORTS)
        try:
            model.learn(callback=progress)
            taken += model.num_timesteps
            if progress.pruned:
                return None, taken, "pruned"
            scores.append(model.evaluate(trial.episodes, seed=EVALUATION_SEED + seed).mean)
        except R2VPOError as error:  # it diverged, say
            return None, taken + model.num_timesteps, str(error)
        finally:
            model.close()
    return sum(scores) / len(scores), taken, ""


PRUNERS: dict[str, Any] = {
    "none": optuna.pruners.NopPruner,
    "median": optuna.pruners.MedianPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "halving": optuna.pruners.SuccessiveHalvingPruner,
}


def _pruner_of(trial: Trial) -> optuna.pruners.BasePruner:
    pruner: optuna.pruners.BasePruner = PRUNERS[trial.study.rsplit("/", 1)[-1]]()
    return pruner


class _Progress(BaseCallback):
    """Reports the mean return of training episodes, and stops where the pruner says so."""

    def __init__(self, trial: optuna.trial.Trial, first: int) -> None:
        super().__init__()
        self.trial, self.next, self.pruned, self._first = trial, 1, False, first

    def _on_update_end(self) -> bool:
        total = self.model.config.total_steps
        value = self.metrics.get("return")
        if value is not None and self.num_timesteps >= self.next * total / REPORTS:
            self.next = int(self.num_timesteps * REPORTS / total) + 1
            self.trial.report(value, self._first + self.next - 1)
            self.pruned = self.num_timesteps < total and self.trial.should_prune()
        return not self.pruned
