"""One evaluation protocol for every algorithm, ours and other people's, and the record of training episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from r2vpo.envs.making import EnvSource, make_env

BatchPolicy = Callable[[NDArray[np.floating]], NDArray[np.floating]]
"""Observations ``[n, obs_dim]`` to actions ``[n, act_dim]`` that the environment accepts."""

EVALUATION_SEED = 1_000_000
"""Evaluation episodes are seeded from here on, the training seed added, far from where training takes its own."""


@dataclass(frozen=True)
class EvaluationResult:
    """Undiscounted returns and lengths of complete episodes, one entry an episode."""

    returns: list[float]
    lengths: list[int]
    successes: list[bool] | None = None
    """Whether the last step's info said ``is_success``; None where the task does not tell."""

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation of the return over episodes (population)."""
        return float(np.std(self.returns))

    @property
    def success_rate(self) -> float | None:
        """Share of the episodes that succeeded; None where the task does not tell."""
        return None if self.successes is None else float(np.mean(self.successes))


def evaluate_policy(policy: BatchPolicy, env: EnvSource, episodes: int, seed: int) -> EvaluationResult:
    """Play one complete episode in each of ``episodes`` environments, seeded ``seed + i``.

    Every environment contributes its first episode whatever its length, so that short episodes are not
    over-represented, as they are when vectorised environments run until enough episodes are done.

    Args:
        policy: Maps a batch of raw observations to a batch of environment actions.
        env: What to evaluate on.
        episodes: Number of episodes, at least 1.
        seed: First reset seed.
    """
    envs = [make_env(env) for _ in range(episodes)]
    observations = [e.reset(seed=seed + i)[0] for i, e in enumerate(envs)]
    returns, lengths = [0.0] * episodes, [0] * episodes
    successes: list[bool | None] = [None] * episodes
    active = list(range(episodes))
    while active:
        actions = policy(np.stack([observations[i] for i in active]))
        still_active = []
        for i, action in zip(active, actions, strict=True):
            observations[i], reward, terminated, truncated, info = envs[i].step(action)
            returns[i] += float(reward)
            lengths[i] += 1
            if not (terminated or truncated):
                still_active.append(i)
            elif "is_success" in info:
                successes[i] = bool(info["is_success"])
        active = still_active
    for e in envs:
        e.close()
    told = [success for success in successes if success is not None]
    return EvaluationResult(returns, lengths, told if len(told) == episodes else None)


@dataclass
class EpisodeLog:
    """Environment step at which each training episode ended, and its undiscounted return."""

    steps: list[int] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)

    def add(self, step: int, episode_return: float) -> None:
        """Record one finished episode."""
        self.steps.append(int(step))
        self.returns.append(float(episode_return))

    def curve(self, total_steps: int, points: int = 50) -> tuple[list[int], list[float | None]]:
        """Mean return of the episodes that ended in each of ``points`` equal windows of steps.

        A window in which no episode ended repeats the one before; windows before the first episode hold
        ``None``. The grid depends on ``total_steps`` alone, so curves of different algorithms line up.
        """
        edges = np.linspace(0, total_steps, points + 1)
        window = np.clip(np.searchsorted(edges, self.steps, side="left") - 1, 0, points - 1)
        returns = np.asarray(self.returns)
        curve: list[float | None] = []
        for i in range(points):
            inside = returns[window == i] if len(returns) else returns
            curve.append(float(inside.mean()) if len(inside) else (curve[-1] if curve else None))
        return [int(edge) for edge in edges[1:]], curve
