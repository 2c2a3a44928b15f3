"""One evaluation protocol for every algorithm, ours and other people's, and the record of training episodes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from r2vpo.envs.gate import Gate, close_all, require_actions, require_held
from r2vpo.envs.making import EnvSource, env_name, make_env
from r2vpo.envs.vector import time_limit
from r2vpo.errors import ConfigError
from r2vpo.validation import Count, checked

BatchPolicy = Callable[[NDArray[np.floating]], NDArray[np.floating]]
"""Observations ``[n, *shape]`` to actions ``[n, *shape]``, of the shapes of the environment's spaces."""

EVALUATION_SEED = 1_000_000
"""Evaluation episodes are seeded from here on, the training seed added, far from where training takes its own."""

MAX_EPISODE_STEPS = 2_000
"""Steps at which an evaluation cuts an episode where nobody gave a limit and the environment has none."""


@dataclass(frozen=True)
class EvaluationResult:
    """Undiscounted returns and lengths of complete episodes, one entry an episode."""

    returns: list[float]
    lengths: list[int]
    successes: list[bool] | None = None
    """Whether the last step's info said ``is_success``; None where the task does not tell."""
    cut: int = 0
    """Episodes that had not ended when they were cut."""

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


def evaluate_policy(
    policy: BatchPolicy,
    env: EnvSource | gym.Env | Sequence[gym.Env],
    episodes: int,
    seed: int,
    max_episode_steps: int | None = None,
) -> EvaluationResult:
    """Play ``episodes`` complete episodes side by side, seeded ``seed + i``, in environments of their own.

    Every seed contributes its episode whatever its length, so that short episodes are not over-represented, as they
    are when vectorised environments run until enough episodes are done.

    Args:
        policy: Maps a batch of raw observations to a batch of environment actions.
        env: What to evaluate on; environments that exist already are used one episode after the other and left open.
        episodes: Number of episodes, at least 1.
        seed: First reset seed.
        max_episode_steps: Steps at which an episode is cut; by default at the environment's own time limit, and at
            :data:`MAX_EPISODE_STEPS` where it has none. A warning says so.

    Raises:
        ConfigError: Unknown id, the same environment twice, or a number that is not allowed.
        EnvironmentFailure: An environment raised, or returned what its observation space does not promise.
        TrainingDiverged: The policy's actions are not finite.
    """
    episodes = checked("episodes", episodes, Count)
    max_episode_steps = checked("max_episode_steps", max_episode_steps, Count | None)
    made: list[gym.Env] = []
    if isinstance(env, gym.Env):
        envs = [env]
    elif isinstance(env, Sequence) and not isinstance(env, str):
        envs = list(env)[:episodes]
        if not envs or len({id(e.unwrapped) for e in envs}) < len(envs):
            raise ConfigError("env", env, "at least one environment, and none of them twice")
    else:
        envs = made = make_up_to(env, episodes)
    try:
        return _play(policy, envs, episodes, seed, max_episode_steps)
    finally:
        close_all(made)


def make_up_to(env: EnvSource, count: int, used: Sequence[gym.Env] = ()) -> list[gym.Env]:
    """So many new environments, or as many as can be had: a simulator may allow a few at a time.

    Args:
        env: What to make them from.
        count: How many.
        used: Environments that are there already. What a source hands out again is no new one.

    Returns:
        At least one, unless there are some in ``used``.
    """
    made: list[gym.Env] = []
    known = {id(e.unwrapped) for e in used}
    while len(made) < count:
        try:
            new = make_env(env)
        except Exception as error:
            if not made and not used:
                raise
            reason = f"{type(error).__name__}: {error}"
            warnings.warn(
                f"evaluating in {len(made) or len(used)} environments: another cannot be made ({reason})", stacklevel=3
            )
            break
        if id(new.unwrapped) in known:
            break
        known.add(id(new.unwrapped))
        made.append(new)
    return made


def _play(
    policy: BatchPolicy, envs: list[gym.Env], episodes: int, seed: int, max_episode_steps: int | None
) -> EvaluationResult:
    returns, lengths = [0.0] * episodes, [0] * episodes
    successes: list[bool | None] = [None] * episodes
    cut = 0
    waiting = iter(range(episodes))

    gates = [Gate(e, env_name(e), index, len(envs)) for index, e in enumerate(envs)]

    def begin(index: int, episode: int) -> tuple[int, int, np.ndarray]:
        # A copy, as an environment may write its next observation into the same array.
        return index, episode, np.array(gates[index].reset(seed + episode))

    limits = [max_episode_steps or _own_limit(e) or MAX_EPISODE_STEPS for e in envs]
    active = [begin(index, episode) for index, episode in zip(range(len(envs)), waiting, strict=False)]
    while active:
        observations, places = np.stack([row for _, _, row in active]), [gates[index] for index, _, _ in active]
        require_held(places, observations)
        actions = np.asarray(policy(observations))
        require_actions(places, actions)
        still_active = []
        for (index, i, _), action in zip(active, actions, strict=True):
            observation, reward, terminated, truncated, info = gates[index].step(action)
            returns[i] += float(reward)
            lengths[i] += 1
            if not (terminated or truncated) and lengths[i] < limits[index]:
                still_active.append((index, i, np.array(observation)))
                continue
            gates[index].require_held("a final observation", observation)
            cut += not (terminated or truncated)
            successes[i] = gates[index].success(info)
            still_active += [begin(index, following) for following in [next(waiting, None)] if following is not None]
        active = still_active
    if cut:
        how = f"evaluation cut {cut} of {episodes} episodes that did not end within {max(limits):,} steps"
        warnings.warn(f"{how}; max_episode_steps, of a run eval_max_episode_steps, sets how many", stacklevel=3)
    told = [success for success in successes if success is not None]
    return EvaluationResult(returns, lengths, told if len(told) == episodes else None, cut)


def _own_limit(env: gym.Env) -> int | None:
    limited = time_limit(env)
    return None if limited is None else limited._max_episode_steps


@dataclass
class EpisodeLog:
    """Environment step at which each training episode ended, and its undiscounted return."""

    steps: list[int] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    """In steps of one environment, where they are known: of the last ones, in runs from before they were kept."""

    def add(self, step: int, episode_return: float, length: int | None = None) -> None:
        """Record one finished episode."""
        self.steps.append(int(step))
        self.returns.append(float(episode_return))
        if length is not None:
            self.lengths.append(int(length))

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
