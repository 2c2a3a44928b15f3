"""The native engine: a :class:`r2vpo.envs.vector.VectorEnv` for MuJoCo tasks, without a Python environment per row.

Only the step is reimplemented. Resets, seeding and saved states go through one environment made by Gymnasium, which
is lent the physics, the random generator and the clock of each simulation in turn: what it draws at a reset is what
Gymnasium draws, and a state saved by either engine loads in the other.
"""

from __future__ import annotations

import itertools
from typing import Any, ClassVar, cast

import numpy as np
from gymnasium.utils.seeding import np_random

from r2vpo.envs.gate import Place, held, require_actions
from r2vpo.envs.making import make_env, require_box_spaces
from r2vpo.envs.native.simulations import Simulations, default_threads
from r2vpo.envs.native.table import NotNative, reason_against, require_agreement, task_class
from r2vpo.envs.state import capture_state, restore_state
from r2vpo.envs.vector import VectorStep, saved_environments, staggered_ages, time_limit
from r2vpo.errors import ConfigError, EnvironmentFailure


class NativeVectorEnv:
    """N environments of one MuJoCo task, reset in the step that ends an episode.

    Equal to :class:`r2vpo.envs.vector.VectorEnv` bit for bit, whatever the number of threads.

    Args:
        env: One of :func:`r2vpo.envs.native.native_tasks`.
        num_envs: N.
        threads: Threads that step the physics, the caller's included; by default one for every four environments,
            within the cores there are.

    Raises:
        NotNative: Anything else, or an id that is registered differently (a ConfigError).
        ConfigError: ``num_envs`` or ``threads`` below 1.
    """

    engine: ClassVar[str] = "native"
    engine_reason = "it was asked for"
    """Why these environments and not those of another engine."""

    def __init__(self, env: object, num_envs: int, threads: int | None = None) -> None:
        reason = reason_against(env)
        if reason is not None:
            raise NotNative(env, reason)
        threads = default_threads(num_envs) if threads is None else threads
        for field, value in (("num_envs", num_envs), ("threads", threads)):
            if value < 1:
                raise ConfigError(field, value, "at least 1")
        self.name = str(env)
        self.num_envs = num_envs
        self._env = make_env(self.name)
        require_agreement(self.name, self._env)
        self.spec = self._env.spec
        self._base = cast(Any, self._env.unwrapped)
        self._clock = time_limit(self._env)
        self.observation_space, self.action_space = require_box_spaces(self._env)
        task = task_class(self.name)
        self._simulations = Simulations(self._base.model, num_envs, threads, task.reads_contact_forces)
        self._task = task(self._base, self._simulations)
        self._generators = [np_random()[0] for _ in range(num_envs)]
        self._episodes = EpisodeClock(num_envs, self._clock._max_episode_steps)
        self._substeps = self._base.frame_skip
        self._actions_shape = (num_envs, *self.action_space.shape)
        self.observations = np.empty((num_envs, *self.observation_space.shape))
        """``[N, D]``, what to act on next."""

    def reset(self, seed: int) -> np.ndarray:
        """Start new episodes, each environment with a seed of its own, the one that ``VectorEnv`` gives it.

        Returns:
            Observations, ``[N, D]``.
        """
        seeds = np.random.SeedSequence(seed).generate_state(self.num_envs)
        for i in range(self.num_envs):
            self.observations[i] = self._reset_one(i, int(seeds[i]))
        return self.observations.copy()

    def stagger(self) -> np.ndarray:
        """Let the episodes just begun count as of different ages, as ``VectorEnv`` does.

        Returns:
            Which of them will be cut early, bool ``[N]``.
        """
        ages = staggered_ages(self.num_envs, self._clock._max_episode_steps)
        for i, age in enumerate(ages):
            self._episodes.put(i, age)
        return np.array(ages) > 0

    def step(self, actions: np.ndarray) -> VectorStep:
        """Take one step in each environment with actions ``[N, A]``.

        Raises:
            EnvironmentFailure: MuJoCo raised, or float32 cannot hold a reward or observation.
            TrainingDiverged: An action is not finite.
        """
        # Sums along the rows have Gymnasium's order only when the rows are contiguous.
        actions = np.ascontiguousarray(actions)
        if actions.shape != self._actions_shape:
            expected = f"of shape {actions.shape} instead of {self._actions_shape}"
            raise EnvironmentFailure(f"{self.name} got actions {expected}")
        if not held(actions):
            require_actions(self._places(), actions)
        before = self._task.before()
        failure = self._simulations.step(actions, self._substeps)
        if failure is not None:
            raise self._places(1)[failure[0]].raised(failure[1]) from failure[1]
        observations, rewards, terminated = self._task.after(before, actions)
        truncated = self._episodes.tick()
        if not (held(rewards) and held(observations)):
            self._require_held(rewards, observations, terminated | truncated)
        finals: dict[int, np.ndarray] = {}
        ended = (terminated | truncated).tolist()
        if True in ended:
            for i in itertools.compress(range(self.num_envs), ended):
                finals[i] = observations[i].copy()
                observations[i] = self._reset_one(i)
        step = VectorStep(observations.copy(), rewards, terminated, truncated, finals)
        self.observations = observations
        return step

    def state_dict(self) -> dict[str, Any]:
        """State of every environment, in the form that ``VectorEnv`` has it."""
        envs = []
        for i in range(self.num_envs):
            self._lend(i)
            envs.append(capture_state(self._env))
        steps = [self._episodes.elapsed(i) for i in range(self.num_envs)]
        return {"envs": envs, "observations": self.observations.copy(), "steps": steps}

    def load_state_dict(self, state: dict[str, Any]) -> list[str]:
        """Restore what :meth:`state_dict` returned, here or in a ``VectorEnv``.

        Returns:
            Names of attributes that could not be captured: none.

        Raises:
            ValueError: The environments differ from the captured ones.
        """
        for i, saved in enumerate(saved_environments(state, self.num_envs)):
            self._lend(i)
            restore_state(self._env, saved)
            self._episodes.put(i, self._clock._elapsed_steps or 0)
        self.observations[:] = state["observations"]
        return sorted({name for saved in state["envs"] for name in saved["unknown"]})

    def close(self) -> None:
        """End the threads and close Gymnasium's environment."""
        self._simulations.close()
        self._env.close()

    def _lend(self, index: int) -> None:
        self._base.data = self._simulations.datas[index]
        self._base.np_random = self._generators[index]
        self._clock._elapsed_steps = self._episodes.elapsed(index)

    def _reset_one(self, index: int, seed: int | None = None) -> np.ndarray:
        """New episode in one environment; its first observation, ``[D]``."""
        self._lend(index)
        try:
            observation, _ = self._env.reset(seed=seed)
        except Exception as error:
            raise Place(self.name, index, self.num_envs).raised(error) from error
        Place(self.name, index, self.num_envs).require_held("an observation", observation)
        self._generators[index] = self._base.np_random
        self._episodes.put(index)
        return observation

    def _places(self, more: int = 0) -> list[Place]:
        """Where the environments stand, ``more`` steps from now."""
        steps = [self._episodes.elapsed(i) + more for i in range(self.num_envs)]
        return [Place(self.name, i, self.num_envs, taken) for i, taken in enumerate(steps)]

    def _require_held(self, rewards: np.ndarray, observations: np.ndarray, ended: np.ndarray) -> None:
        """Name the environment at fault, rewards first, as ``VectorEnv`` does."""
        for place, reward, observation, final in zip(self._places(), rewards, observations, ended, strict=True):
            place.require_held("a reward", reward)
            place.require_held("a final observation" if final else "an observation", observation)


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
