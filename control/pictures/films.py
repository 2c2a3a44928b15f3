"""An episode of an agent, as a film that lasts as long as the episode, or live in a window."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

import gymnasium as gym
import numpy as np

from r2vpo.control.evaluation import MAX_EPISODE_STEPS, BatchPolicy
from r2vpo.envs.gate import Gate, close_all
from r2vpo.envs.making import EnvSource, env_name, make_env
from r2vpo.envs.vector import time_limit
from r2vpo.errors import ConfigError

FPS = 30
"""Frames a second, of every film."""
Render = Literal["film", "human"]

OnStep = Callable[[int, int, float], None]
"""Told, after each step, the steps so far, the most there may be, and the return so far."""


def record_video(
    policy: BatchPolicy,
    env: EnvSource | gym.Env,
    path: Path,
    seed: int,
    max_steps: int | None = None,
    size: int | None = None,
    env_kwargs: Mapping[str, Any] = MappingProxyType({}),
    fps: int | None = FPS,
    on_step: OnStep = lambda *_: None,
) -> Path:
    """Film one episode as an mp4 that takes as long to play as the episode takes the robot.

    Args:
        policy: Chooses the actions.
        env: Environment to make and film; or one that renders ``rgb_array``, which is left open.
        path: File to write, and to leave whole or not at all.
        seed: Of the episode.
        max_steps: Steps at most; by default the time limit of the environment, or 2000 where it has none.
        size: Width and height in pixels of a MuJoCo task; as the environment has it when not given, and of other tasks.
        env_kwargs: Further arguments of the environment.
        fps: Frames a second; None makes a frame of every step, at the environment's own rate.
        on_step: Told how far it is.

    Raises:
        ConfigError: The environment renders no images.
        EnvironmentFailure: It raised, or returned what its observation space does not promise.
    """
    import imageio.v2 as imageio

    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    filmed = env if isinstance(env, gym.Env) else _made(env, "rgb_array", _camera(env, size, env_kwargs), env_kwargs)
    rate = float(filmed.metadata.get("render_fps") or FPS)
    shown = 0
    try:
        with cast(Any, imageio).get_writer(path, fps=fps or rate, macro_block_size=16) as writer:

            def show(step: int) -> None:
                nonlocal shown
                due = int(step / rate * (fps or rate) + 1e-6) + 1 - shown
                if due > 0:
                    frame = _frame(filmed, env)
                    for _ in range(due):
                        writer.append_data(frame)
                    shown += due

            play(policy, filmed, seed, max_steps, show, on_step)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        if filmed is not env:
            close_all([filmed])
    return path


def show_live(
    policy: BatchPolicy,
    env: EnvSource | gym.Env,
    seed: int,
    max_steps: int | None = None,
    env_kwargs: Mapping[str, Any] = MappingProxyType({}),
    on_step: OnStep = lambda *_: None,
) -> None:
    """Play one episode in a window; the arguments are those of :func:`record_video`.

    Raises:
        ConfigError: The environment has no window here.
        EnvironmentFailure: It raised, or returned what its observation space does not promise.
    """
    shown = env if isinstance(env, gym.Env) else _made(env, "human", {}, env_kwargs)
    if shown.render_mode != "human":
        raise ConfigError("env", env_name(env), "one that is made with render_mode='human'")
    try:
        play(policy, shown, seed, max_steps, lambda step: None, on_step)  # it draws itself at each step
    finally:
        if shown is not env:
            close_all([shown])


def play(
    policy: BatchPolicy,
    env: gym.Env,
    seed: int,
    max_steps: int | None,
    show: Callable[[int], None],
    on_step: OnStep,
) -> None:
    """One episode; ``show`` is called before each step with the number of those taken."""
    gate, limited = Gate(env, env_name(env)), time_limit(env)
    limit = max_steps or (None if limited is None else limited._max_episode_steps) or MAX_EPISODE_STEPS
    observation, total = gate.reset(seed), 0.0
    for step in range(limit):
        show(step)
        observation, reward, terminated, truncated, _ = gate.step(policy(observation[None])[0])
        gate.require_held("an observation", observation)
        total += float(reward)
        on_step(step + 1, limit, total)
        if terminated or truncated:
            break


def unused(path: Path) -> Path:
    """The path itself, or with -2, -3, ... before its suffix where there are such files already."""
    names = (path if number == 1 else path.with_stem(f"{path.stem}-{number}") for number in count(1))
    return next(name for name in names if not name.exists())


def _made(env: EnvSource, render_mode: str, camera: Mapping[str, Any], env_kwargs: Mapping[str, Any]) -> gym.Env:
    return make_env(env, render_mode=render_mode, **camera, **env_kwargs)


def _frame(filmed: gym.Env, env: EnvSource | gym.Env) -> np.ndarray:
    try:
        frame = filmed.render()
    except NotImplementedError:  # Gymnasium's own, of an environment without one
        frame = None
    if frame is None or isinstance(frame, list):
        raise ConfigError("env", env_name(env), "one that renders images: made with render_mode='rgb_array'")
    return np.asarray(frame)


def _camera(env: EnvSource, size: int | None, env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that film a MuJoCo task in this size, and with the camera that follows the body where there is one."""
    if not isinstance(env, str):
        return {}
    plain = make_env(env, **env_kwargs)
    model: Any = getattr(plain.unwrapped, "model", None)
    plain.close()
    if not hasattr(model, "ncam"):
        return {}
    follows = any(model.camera(i).name == "track" for i in range(model.ncam))
    return ({"camera_name": "track"} if follows else {}) | ({"width": size, "height": size} if size else {})
