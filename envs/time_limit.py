"""The time limit of an environment, and ages for environments that would otherwise all be cut in the same step."""

from __future__ import annotations

import gymnasium as gym
import numpy as np


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


class EpisodeClock:
    """Counts the steps of N episodes, looking at them one by one only when the limit of one has come.

    Args:
        count: N.
        limit: Steps after which an episode is cut.
    """

    def __init__(self, count: int, limit: int) -> None:
        self._limit = limit
        self._now = 0
        self._begun = np.zeros(count, dtype=np.int64)
        self._due = limit

    def tick(self) -> np.ndarray:
        """Count one step in every episode.

        Returns:
            The episodes that are cut now, bool, ``[N]``: each has to begin anew.
        """
        self._now += 1
        if self._now < self._due:
            return np.zeros(len(self._begun), dtype=bool)
        cut = self._now - self._begun >= self._limit
        self._due = int(np.where(cut, self._now, self._begun).min()) + self._limit
        return cut

    def elapsed(self, index: int) -> int:
        """Steps of one episode so far."""
        return self._now - int(self._begun[index])

    def put(self, index: int, elapsed: int = 0) -> None:
        """Let an episode be ``elapsed`` steps old."""
        self._begun[index] = self._now - elapsed
        self._due = min(self._due, int(self._begun[index]) + self._limit)
