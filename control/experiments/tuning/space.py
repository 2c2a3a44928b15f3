"""A search space: what a tuner may choose for each setting, read from a file that people read as well."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from r2vpo.control.config import ControlConfig
from r2vpo.errors import ConfigError
from r2vpo.validation import check_names, checked, upgraded

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

DEFAULT = """\
# What r2vpo control tune may choose. A list names the choices; low and high are bounds, both included, between which
# log: true chooses by orders of magnitude, and step in steps. A setting that is left out stays as it is.
learning_rate: {low: 1.0e-4, high: 3.0e-3, log: true}
minibatch_size: [64, 128, 256]
num_envs: [4, 8, 16]
rollout_steps: [64, 128, 256]
epochs: {low: 3, high: 15}
gae_lambda: {low: 0.9, high: 0.99}
gamma: [0.98, 0.99, 0.995]
log_std_init: {low: -1.5, high: 0.0}
hidden_sizes: [[64, 64], [128, 128]]
"""
_NOT_TUNED = ("env", "env_kwargs", "algo", "objective", "seed", "total_steps", "preset", "eval_episodes", "eval_every")
_KEYS = {"low", "high", "log", "step"}


@dataclass(frozen=True)
class Dimension:
    """What one setting may be: one of ``choices``, or a number between ``low`` and ``high``."""

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None

    def suggest(self, trial: BaseTrial) -> Any:
        """A value for a trial."""
        if self.choices:
            # As texts: Optuna's choices are plain values, and some of ours are lists.
            return json.loads(trial.suggest_categorical(self.name, [json.dumps(choice) for choice in self.choices]))
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.name, self.low, self.high, step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)


def read_space(path: Path | None) -> tuple[list[Dimension], str]:
    """The dimensions in a YAML or JSON file, :data:`DEFAULT` where there is none, and its text.

    Raises:
        ConfigError: It cannot be read, names something that is no setting, or allows a value that the setting does not.
    """
    import yaml

    from r2vpo.cli import read_settings

    if path is None:
        return _dimensions(yaml.safe_load(DEFAULT)), DEFAULT
    entries = read_settings(path)
    return _dimensions(entries), path.read_text(encoding="utf-8-sig")


def _dimensions(entries: dict[str, Any]) -> list[Dimension]:
    check_names(ControlConfig, entries)
    if not entries:
        raise ConfigError("space", entries, "a mapping from settings to what they may be")
    return [_dimension(name, entry) for name, entry in entries.items()]


def _dimension(name: str, entry: Any) -> Dimension:
    if name in _NOT_TUNED:
        raise ConfigError(name, entry, "left out of a search space: it is the same in every trial")
    hint = get_type_hints(ControlConfig, include_extras=True)[name]
    if isinstance(entry, list) and entry:
        for choice in entry:
            checked(name, upgraded({name: choice})[name], hint)
        return Dimension(name, choices=tuple(entry))
    if not isinstance(entry, dict) or not {"low", "high"} <= set(entry) <= _KEYS:
        raise ConfigError(name, entry, "a list of choices, or low and high, and with them log: true or step")
    for bound in (entry["low"], entry["high"]):
        checked(name, bound, hint)
    if not entry["low"] < entry["high"] or (entry.get("log") and (entry["low"] <= 0 or "step" in entry)):
        raise ConfigError(name, entry, "low below high; with log: true above 0 and without step")
    return Dimension(name, **entry)
