"""Choosing what steps the environments: the native engine where it covers the task, Gymnasium elsewhere."""

from __future__ import annotations

from typing import Literal, get_args

import gymnasium as gym

from r2vpo.envs.making import EnvSource
from r2vpo.envs.native import NativeVectorEnv, NotNative
from r2vpo.envs.vector import VectorEnv
from r2vpo.errors import ConfigError

Engine = Literal["auto", "native", "gymnasium"]
AnyVectorEnv = NativeVectorEnv | VectorEnv


def make_vector_env(
    env: EnvSource | gym.Env, num_envs: int, engine: Engine = "auto", threads: int | None = None
) -> AnyVectorEnv:
    """N environments side by side.

    Args:
        env: Environment id or factory, or one environment that exists already (N must be 1 then).
        num_envs: N.
        engine: ``"auto"`` takes the native engine where it covers the task, Gymnasium elsewhere. Results and saved
            states are the same with both.
        threads: For the native engine; see :class:`r2vpo.envs.native.NativeVectorEnv`.

    Returns:
        The environments; their attributes ``engine`` and ``engine_reason`` say which engine it is and why.

    Raises:
        ConfigError: Unknown engine or environment, or ``"native"`` for a task that it does not cover.
    """
    if engine not in get_args(Engine):
        raise ConfigError("engine", engine, f"one of {', '.join(get_args(Engine))}")
    if engine == "gymnasium":
        return VectorEnv(env, num_envs)
    try:
        native = NativeVectorEnv(env, num_envs, threads)
    except NotNative as refusal:
        if engine == "native":
            raise
        envs = VectorEnv(env, num_envs)
        envs.engine_reason = refusal.reason
        return envs
    if engine == "auto":
        native.engine_reason = f"it covers {native.name}"
    return native
