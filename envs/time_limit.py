"""The time limit of an environment, and ages for environments that would otherwise all be cut in the same step."""

from __future__ import annotations

import gymnasium as gym


def time_limit(env: gym.Env) -> gym.wrappers.TimeLimit | None:
    """The wrapper that counts the steps of the episode; None where there is none."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.wrappers.TimeLimit):
            return env
        env = env.env
    return None


def staggered_ages(num_envs: int, limit: int) -> list[int]:
    """Ages in steps, equally spaced over an episode; the first is 0."""
    return [i * limit // num_envs for i in range(num_envs)]
