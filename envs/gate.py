"""The gate that environments pass: what they return is what their spaces promise, or an error says where it is not.

Everything that steps an environment from outside the native engine does so through :class:`Gate`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from r2vpo.envs.making import env_name, observation_box
from r2vpo.errors import EnvironmentFailure, TrainingDiverged

LARGEST = float(np.finfo(np.float32).max)
"""Networks compute in float32: beyond this a number is infinite to them."""

_LOWEST = -LARGEST
_ARRAY = np.ndarray
_NUMBERS = "fiub"
"""Kinds of NumPy's dtypes that are numbers."""


def held(values: np.ndarray | np.floating) -> bool:
    """Whether every value is finite, also as float32; for small arrays in a third of a mask's time."""
    # A sum of squares that is small enough leaves none of them large; NaN is not small either.
    return float(np.vdot(values, values)) <= LARGEST or bool((np.abs(values) <= np.float64(LARGEST)).all())


class Place:
    """Where an environment stands, for messages.

    Args:
        name: Of the task.
        index: Of the environment.
        num_envs: Environments side by side.
        steps: Taken in its episode.
    """

    def __init__(self, name: str, index: int, num_envs: int, steps: int = 0) -> None:
        self.name, self.index, self.num_envs, self.steps = name, index, num_envs, steps

    def __str__(self) -> str:
        """As messages begin."""
        return f"environment {self.index} of {self.num_envs} ({self.name})"

    @property
    def moment(self) -> str:
        """The call under way."""
        return f"step {self.steps} of its episode" if self.steps else "reset"

    def raised(self, error: BaseException) -> EnvironmentFailure:
        """The failure to raise when the environment raised an error of its own."""
        return EnvironmentFailure(f"{self} raised in {self.moment}: {error!r}")

    def returned(self, what: str) -> EnvironmentFailure:
        """The failure to raise when the environment returned what it should not."""
        return EnvironmentFailure(f"{self} returned in {self.moment} {what}")

    def require_held(self, what: str, values: np.ndarray | np.floating) -> None:
        """Raise EnvironmentFailure unless float32 holds every value; ``what`` begins with an article."""
        if not held(values):
            fault = "within what float32 holds" if np.isfinite(values).all() else "finite"
            raise self.returned(f"{what} that is not {fault}: {values}")


class Gate(Place):
    """One environment, every answer of which is checked.

    Observations are the environment's own arrays, which its next call may overwrite: whoever keeps one copies it. They
    are not looked at number by number here, as that costs less for many environments at once (:func:`require_held`).

    Args:
        env: The environment.
        name: Of the task.
        index: Of the environment.
        num_envs: Environments side by side.

    Raises:
        ConfigError: The observation space is no Box.
    """

    def __init__(self, env: gym.Env, name: str, index: int = 0, num_envs: int = 1) -> None:
        super().__init__(name, index, num_envs)
        self.env = env
        self.space = observation_box(env)
        self.shape = self.space.shape
        self._dtype = self.space.dtype
        """That of the last observation."""

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Begin an episode; its first observation, of the shape of the space.

        Raises:
            EnvironmentFailure: The environment raised, or returned anything but an observation and an info.
        """
        self.steps = 0
        returned = self._answer_to_reset(seed)
        if not isinstance(returned, tuple | list) or len(returned) != 2:
            array = _as_array(returned)
            old = " alone, as before Gymnasium 0.26" if array is not None and array.shape == self.shape else ""
            raise self.returned(f"{_described(returned)}{old}; a pair is needed, observation and info")
        self._info(returned[1])
        observation = self._observation(returned[0])
        self.require_held("an observation", observation)
        return observation

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, Mapping[str, Any]]:
        """Take a step: observation, reward, terminated, truncated and info.

        A size-1 array is taken for its number, and 0 and 1 for False and True: nothing else can be meant.

        Raises:
            EnvironmentFailure: The environment raised, or returned anything else.
        """
        self.steps += 1
        try:
            returned = self.env.step(action)
        except (Exception, SystemExit) as error:  # no simulator ends a training without a word
            raise self.raised(error) from error
        # What is right costs a few comparisons; everything else is looked at closely.
        if type(returned) is not tuple or len(returned) != 5:
            self._five(returned)
        observation, reward, terminated, truncated, info = returned
        if type(observation) is not _ARRAY or observation.shape != self.shape or observation.dtype is not self._dtype:
            observation = self._observation(observation)
        if not isinstance(reward, float):
            reward = self._reward(reward)
        if not _LOWEST <= reward <= LARGEST:
            self.require_held("a reward", np.float64(reward))
        if terminated is not False and terminated is not True:
            terminated = self._flag("terminated", terminated)
        if truncated is not False and truncated is not True:
            truncated = self._flag("truncated", truncated)
        if type(info) is not dict:
            self._info(info)
        return observation, reward, terminated, truncated, info

    def success(self, info: Mapping[str, Any]) -> bool | None:
        """What the info of an episode's last step says of its success; None where it says nothing.

        Raises:
            EnvironmentFailure: It says something that is neither true nor false.
        """
        if "is_success" not in info:
            return None
        array = _as_array(info["is_success"])
        if array is None or array.size != 1:
            raise self.returned(f"{_described(info['is_success'])} as is_success; True or False is needed")
        return bool(array.item())

    def _answer_to_reset(self, seed: int | None) -> Any:
        """A simulator that takes 31 bits at most gets the lower ones of a seed."""
        try:
            return self.env.reset() if seed is None else self.env.reset(seed=seed)
        except (Exception, SystemExit) as error:
            if seed is not None and seed >= 2**31:
                return self._answer_to_reset(seed % 2**31)
            raise self.raised(error) from error

    def _five(self, value: Any) -> None:
        if not isinstance(value, tuple | list) or len(value) != 5:
            old = ", as before Gymnasium 0.26" if isinstance(value, tuple) and len(value) == 4 else ""
            needed = "five values are needed: observation, reward, terminated, truncated and info"
            raise self.returned(f"{_described(value)}{old}; {needed}")

    def _observation(self, value: Any) -> np.ndarray:
        array = _as_array(value)
        if array is None or array.shape != self.shape:
            raise self.returned(f"{_described(value)} as its observation; its space is {self.space}")
        self._dtype = array.dtype
        return array

    def _reward(self, value: Any) -> float:
        if isinstance(value, np.floating):
            return float(value)
        array = None if isinstance(value, list | tuple) else _as_array(value)
        if array is None or array.size != 1:
            raise self.returned(f"{_described(value)} as its reward; one number is needed")
        return float(array.item())

    def _flag(self, name: str, value: Any) -> bool:
        if type(value) is np.bool_:
            return bool(value)
        array = None if isinstance(value, list | tuple) else _as_array(value)
        if array is None or array.size != 1 or array.dtype.kind == "f" or array.item() not in (0, 1):
            raise self.returned(f"{_described(value)} as {name}; True or False is needed")
        return bool(array.item())

    def _info(self, value: Any) -> None:
        if not isinstance(value, Mapping):
            raise self.returned(f"{_described(value)} as its info; a dictionary is needed")


def require_held(places: list[Gate] | list[Place], observations: np.ndarray) -> None:
    """Raise EnvironmentFailure, naming the first environment at fault, unless float32 holds every value.

    Args:
        places: N environments.
        observations: ``[N, ...]``.
    """
    if not held(observations):
        for place, observation in zip(places, observations, strict=True):
            place.require_held("an observation", observation)


def require_actions(places: list[Gate] | list[Place], actions: np.ndarray) -> None:
    """Raise TrainingDiverged where actions ``[N, ...]`` are not finite: no environment is to blame for what follows."""
    if not held(actions):
        for place, action in zip(places, actions, strict=True):
            if not np.isfinite(action).all():
                raise TrainingDiverged(f"the policy's action for {place} is not finite: {action}")


def close_all(envs: Iterable[gym.Env]) -> None:
    """Close every environment; one that raises is warned of, as there is nothing left that it could spoil."""
    for env in envs:
        try:
            env.close()
        except Exception as error:
            warnings.warn(f"{env_name(env)} raised in close: {error!r}", stacklevel=3)


def _as_array(value: Any) -> np.ndarray | None:
    """The numbers as an array; None where there is anything else."""
    try:
        array = np.asarray(value)
    except Exception:  # of NumPy, or of the value's own __array__: either way no array
        return None
    return array if array.dtype.kind in _NUMBERS else None


def _described(value: Any) -> str:
    """What it is, in a few words."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)} ({', '.join(type(item).__name__ for item in value[:6])})"
    kind = type(value).__name__
    return f"{str(value)[:40]!r} ({kind})" if isinstance(value, str | int | float | np.generic) else f"a {kind}"
