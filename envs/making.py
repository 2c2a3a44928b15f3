"""Creating Gymnasium environments with errors that say what is wrong before any work starts."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np

from r2vpo.envs.tasks.robotics import flatten_goal, register_robotics
from r2vpo.envs.tasks.table import register_tasks
from r2vpo.errors import ConfigError

EnvSource = str | Callable[[], gym.Env]
"""An environment id known to Gymnasium, or a function that makes a fresh environment."""

# Gymnasium's own model files trigger it once per environment; nothing a user does can avoid it.
_KNOWN_MODEL_WARNING = "settotalmass"


def make_env(env: EnvSource, render_mode: str | None = None, *, wrapper: str = "", **kwargs: Any) -> gym.Env:
    """Make one environment.

    Tasks of :mod:`r2vpo.envs.tasks` and, where it is installed, of gymnasium-robotics need no import. Goal-conditioned
    ones of the latter get flat observations (see :func:`r2vpo.envs.tasks.robotics.flatten_goal`).

    Args:
        env: A Gymnasium id, or a function without arguments that returns a new environment.
        render_mode: Passed to :func:`gymnasium.make`; ignored when ``env`` is a function.
        wrapper: ``module:Class`` of a wrapper around it that needs no other argument, or several with commas between,
            the innermost first. It is an argument of the environment like any other, and goes wherever those go.
        kwargs: Further arguments of the environment.

    Raises:
        ConfigError: An id that is unknown, with the closest known ones, or cannot be made; no function that makes an
            environment; or no wrapper.
    """
    return _wrapped(_made_by(env) if not isinstance(env, str) else _made_of_id(env, render_mode, kwargs), wrapper)


def _made_of_id(env: str, render_mode: str | None, kwargs: dict[str, Any]) -> gym.Env:
    if render_mode is not None:  # an environment that renders nothing need not know of it
        kwargs["render_mode"] = render_mode
    register_tasks()
    register_robotics(env)
    with _quiet_model_warning():
        try:
            return flatten_goal(gym.make(env, disable_env_checker=True, **kwargs))
        except (gym.error.NameNotFound, gym.error.VersionNotFound, gym.error.NamespaceNotFound) as error:
            raise ConfigError("env", env, f"an id registered with Gymnasium{_suggestion(env)}") from error
        except ConfigError:
            raise
        except Exception as error:  # of Gymnasium, of a module that is not there, or of the environment's constructor
            said = f"an id Gymnasium can make ({type(error).__name__}: {error})"
            raise ConfigError("env", env, said + _suggestion(env)) from error


def _wrapped(env: gym.Env, names: str) -> gym.Env:
    for name in filter(None, names.split(",")):
        allowed = "module:Class of a wrapper, or of a function, that takes an environment and nothing else"
        module, _, attribute = name.partition(":")
        try:
            made = getattr(importlib.import_module(module), attribute)(env)
        except ConfigError:
            raise
        except Exception as error:
            env.close()
            raise ConfigError("wrapper", name, f"{allowed} ({type(error).__name__}: {error})") from error
        if not isinstance(made, gym.Env):
            raise ConfigError("wrapper", name, f"{allowed}, and returns one; this one returned {made!r}")
        env = made
    return env


def env_with(env_id: str, kwargs: dict[str, Any]) -> EnvSource:
    """The id itself, or where its environment takes these arguments, a function of that name which passes them on."""
    if not kwargs:
        return env_id
    make = functools.partial(make_env, env_id, **kwargs)
    make.__name__ = env_id  # type: ignore[attr-defined]
    return make


def _made_by(function: Callable[[], gym.Env]) -> gym.Env:
    wanted = "a Gymnasium id, a function without arguments that makes one environment, or one environment"
    if not callable(function):
        raise ConfigError("env", function, f"{wanted}; num_envs of them are made here")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise ConfigError("env", env_name(function), f"{wanted}: {error}") from error
    except ValueError:
        pass  # a function that does not tell what it takes
    try:
        env = function()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError("env", env_name(function), f"{wanted}: {type(error).__name__}: {error}") from error
    if not isinstance(env, gym.Env):
        raise ConfigError("env", env_name(function), f"{wanted}, as a gymnasium.Env; this one returned {env!r}")
    env_name(env)  # refuses a wrapper of nothing, which fails at whatever it is asked
    return env


def require_box_spaces(env: gym.Env) -> tuple[gym.spaces.Box, gym.spaces.Box]:
    """Spaces of observations, a Box of numbers of any kind, and of actions, a Box of floats, bounded or unbounded.

    Raises:
        ConfigError: Either space is another one, or holds no number at all.
    """
    return observation_box(env), _box(env, "action_space", "a Box of floats: a Gaussian policy has continuous actions")


def observation_box(env: gym.Env) -> gym.spaces.Box:
    """The observation space.

    Raises:
        ConfigError: It is no Box, or one of no numbers.
    """
    space = getattr(env, "observation_space", None)
    advice = ""
    if isinstance(space, gym.Space) and space.is_np_flattenable:
        how = "--wrapper gymnasium.wrappers:FlattenObservation, or env=lambda: FlattenObservation(...)"
        advice = f"; gymnasium.wrappers.FlattenObservation makes one of it: {how}"
    return _box(env, "observation_space", f"a Box{advice}")


def _box(env: gym.Env, field: str, allowed: str) -> gym.spaces.Box:
    space = getattr(env, field, None)
    named = f"{allowed} (in {env_name(env)})"
    if not isinstance(space, gym.spaces.Box):
        raise ConfigError(field, space, named)
    if field == "action_space" and not np.issubdtype(space.dtype, np.floating):
        raise ConfigError(field, space, named)
    if not gym.spaces.flatdim(space):
        raise ConfigError(field, space, f"of at least one number; {named}")
    return space


def env_name(env: EnvSource | gym.Env) -> str:
    """Name for files and tables: the id, or the name of the function or the class that makes it.

    Raises:
        ConfigError: A wrapper that wraps nothing.
    """
    if isinstance(env, gym.Env):
        try:
            return env.spec.id if env.spec is not None else type(env.unwrapped).__name__
        except AttributeError as error:
            allowed = "an environment; one of its wrappers has none inside (does its __init__ call super().__init__?)"
            raise ConfigError("env", type(env).__name__, allowed) from error
    return env if isinstance(env, str) else getattr(env, "__name__", type(env).__name__)


def _suggestion(env_id: str) -> str:
    close = difflib.get_close_matches(env_id, gym.registry.keys() - {env_id.rpartition(":")[2]}, n=3)
    return f"; did you mean {', '.join(close)}?" if close else ""


@contextmanager
def _quiet_model_warning() -> Iterator[None]:
    """Turn MuJoCo's messages while loading a model into Python warnings, less the one known to be harmless."""
    try:
        import mujoco
    except ImportError:
        yield
        return
    if not hasattr(mujoco, "set_mju_user_warning"):
        yield
        return

    def forward(message: str) -> None:
        if _KNOWN_MODEL_WARNING not in message:
            warnings.warn(f"MuJoCo: {message}", stacklevel=4)

    previous = mujoco.get_mju_user_warning() if hasattr(mujoco, "get_mju_user_warning") else None
    mujoco.set_mju_user_warning(forward)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(previous)
