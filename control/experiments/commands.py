"""Arguments of ``r2vpo control compare`` and ``study``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from r2vpo.control.config import ControlConfig
from r2vpo.errors import ConfigError
from r2vpo.validation import check_names, upgraded

ELSEWHERE = {
    "env": "--env",
    "algo": "--algos",
    "objective": "--algos",
    "preset": "--algos",
    "seed": "--first-seed and --seeds",
    "total_steps": "--total-steps",
    "eval_episodes": "--episodes",
}
"""Settings that a study has an argument of its own for."""

_HINTS = get_type_hints(ControlConfig)


def parse_settings(words: Sequence[str]) -> dict[str, Any]:
    """Settings from words like ``delta=0.05``, as values that JSON has.

    Values are checked here as far as their type goes; ranges are the configuration's to check.

    Args:
        words: ``NAME=VALUE`` each; lists are separated by commas, ``none`` is None.

    Raises:
        ConfigError: A word without ``=``, an unknown name, one given twice, or one with an argument of its own.
    """
    settings: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ConfigError("set", word, "NAME=VALUE, as in delta=0.05")
        check_names(ControlConfig, upgraded({name: text}))  # a hyperparameter of the objective goes by its own name
        if name in ELSEWHERE:
            raise ConfigError(name, text, f"left out of --set: {ELSEWHERE[name]} says it")
        if name in settings:
            raise ConfigError(name, text, "given once")
        settings[name] = _value(name, text)
    return settings


def setting_words(settings: dict[str, Any]) -> list[str]:
    """The words that :func:`parse_settings` reads these settings from."""
    return [f"{name}={_text(value)}" for name, value in settings.items()]


def _value(name: str, text: str) -> Any:
    hint = _HINTS.get(name)
    if get_origin(hint) is tuple:
        return [_number(part) for part in text.split(",")]
    value: Any = {"none": None, "true": True, "false": False}.get(text.lower(), _number(text))
    if hint is bool and not isinstance(value, bool):
        raise ConfigError(name, value, "True or False")
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole and float in (hint, *get_args(hint)) else value


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class CompareCommand:
    """Train several algorithms on the same tasks, steps and seeds, and evaluate all of them alike.

    Ours: r2vpo-off (also r2vpo), r2vpo-on, ppo-best (PPO under the same recipe), ppo (at the numbers of SB3) and
    ppo-replay; other objectives on-policy by their own names (onesided, spo, clip_higher, gppo, topr, cispo, gspo,
    none, sapo, m2po, vespo, asymre, log2), off-policy as onesided-off and so on; and for speed r2vpo-off-overlap,
    r2vpo-on-overlap, r2vpo-fast, ppo-fast.
    Stable-Baselines3 and sb3-contrib where installed: sb3-ppo, sb3-trpo, sb3-sac, sb3-td3; and SB3's PPO with our
    objective in place of its own, r2vpo-sb3, and with replay besides, r2vpo-sb3-off.
    Tianshou 2 where installed: tianshou-ppo, its PPO under the recipe of its authors' MuJoCo benchmark.
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
    quiet: bool = False
    """No live table."""


Videos = Literal["none", "best-worst"]


def _ten_tasks() -> tuple[str, ...]:
    from r2vpo.envs.tasks.table import TASKS  # loads Gymnasium, which other commands' --help need not wait for

    return tuple(task.id for task in TASKS)


@dataclass(frozen=True)
class StudyCommand:
    """Train algorithms on tasks and seeds, each cell once, and evaluate all of them alike.

    Algorithms are those of r2vpo control compare. Interrupted or killed, the same command goes on where it stopped,
    and so does --resume; a changed command on the same folder adds cells to those that are there.
    """

    env: tuple[str, ...] = field(default_factory=_ten_tasks)
    """Gymnasium ids."""
    algos: tuple[str, ...] = ("r2vpo-on", "r2vpo-off", "ppo", "ppo-replay", "spo", "sb3-ppo")
    """Algorithms; sb3-sac, sb3-td3, sb3-trpo and tianshou-ppo on request."""
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
