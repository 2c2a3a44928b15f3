"""Stepping several environments side by side, with the true final observation of every episode.

:class:`VectorEnv` does it for any task; what it shares with the native engine is below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from r2vpo.envs.making import EnvSource, env_name, make_env, require_box_spaces
from r2vpo.envs.state import capture_state, restore_state
from r2vpo.errors import ConfigError, EnvironmentFailure


@dataclass
class VectorStep:
    """One step of N environments. Where an episode ended, ``observations`` already belongs to the next one."""

    observations: np.ndarray
    """``[N, D]``, what to act on next."""
    rewards: np.ndarray
    """``[N]``, float64."""
    terminated: np.ndarray
    """``[N]``, bool: a terminal state was reached."""
    truncated: np.ndarray
    """``[N]``, bool: the episode was cut, by a time limit for example."""
    final_observations: dict[int, np.ndarray]
    """For each environment whose episode ended, the observation that ended it, ``[D]``."""


class VectorEnv:
    """N environments in one process, reset in the step that ends an episode.

    Gymnasium's ``SyncVectorEnv`` does the same through per-step information dictionaries, which costs a fifth of
    the steps per second of a fast MuJoCo task and hides which environment failed.

    Args:
        env: Environment id or factory, or one environment that exists already (N must be 1 then).
        num_envs: N.

    Raises:
        ConfigError: Unknown id, spaces that are not Boxes, or a function that returns the same environment twice.
    """

    engine: ClassVar[str] = "gymnasium"
    engine_reason = "it was asked for"
    """Why these environments and not those of another engine."""

    def __init__(self, env: EnvSource | gym.Env, num_envs: int) -> None:
        if isinstance(env, gym.Env):
            if num_envs != 1:
                raise ConfigError("num_envs", num_envs, "1 when env is an environment; pass its id or a factory")
            self.envs = [env]
        else:
            self.envs = [make_env(env) for _ in range(num_envs)]
            if len({id(made.unwrapped) for made in self.envs}) < num_envs:
                wanted = "a function that makes a new environment each time; it returned one object twice"
                raise ConfigError("env", env_name(env), wanted)
        self.name = env_name(env)
        self.spec = self.envs[0].spec
        self.num_envs = num_envs
        self.observation_space, self.action_space = require_box_spaces(self.envs[0])
        self.observations = np.empty((num_envs, *self.observation_space.shape))
        """``[N, D]``, what to act on next."""

    def reset(self, seed: int) -> np.ndarray:
        """Start new episodes, each environment with a seed of its own derived from ``seed``.

        Returns:
            Observations, ``[N, D]``.
        """
        # Seeds seed, seed + 1, ... would give runs with neighbouring seeds almost the same environments.
        seeds = np.random.SeedSequence(seed).generate_state(self.num_envs)
        for i in range(self.num_envs):
            self.observations[i] = self._call(i, "reset", seed=int(seeds[i]))[0]
        require_finite(self.name, self.num_envs, "observation", self.observations)
        return self.observations.copy()

    def stagger(self) -> np.ndarray:
        """Let the episodes just begun count as of different ages, so that time limits cut them one after the other.

        Returns:
            Which of them will be cut early, bool ``[N]``; none where there is no time limit.
        """
        older = np.zeros(self.num_envs, dtype=bool)
        for i, limited in enumerate(map(time_limit, self.envs)):
            if limited is not None:
                limited._elapsed_steps = staggered_ages(self.num_envs, limited._max_episode_steps)[i]
                older[i] = limited._elapsed_steps > 0
        return older

    def step(self, actions: np.ndarray) -> VectorStep:
        """Take one step in each environment with actions ``[N, A]``.

        Raises:
            EnvironmentFailure: An environment raised, or returned a reward or observation that is not finite.
        """
        rewards = np.empty(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), dtype=bool)
        finals: dict[int, np.ndarray] = {}
        for i in range(self.num_envs):
            observation, rewards[i], terminated[i], truncated[i], _ = self._call(i, "step", actions[i])
            if terminated[i] or truncated[i]:
                finals[i] = np.array(observation)  # a copy: the reset may write into the same array
                observation = self._call(i, "reset")[0]
            self.observations[i] = observation
        step = VectorStep(self.observations.copy(), rewards, terminated, truncated, finals)
        require_finite_step(self.name, step)
        return step

    def state_dict(self) -> dict[str, Any]:
        """State of every environment (see :func:`r2vpo.envs.state.capture_state`)."""
        return {"envs": [capture_state(env) for env in self.envs], "observations": self.observations.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> list[str]:
        """Restore what :meth:`state_dict` returned, on environments made the same way and reset once.

        Returns:
            Names of attributes that could not be captured; when there are any, the resumed run is valid but not
            bit for bit the uninterrupted one.

        Raises:
            ValueError: The environments differ from the captured ones.
        """
        for env, saved in zip(self.envs, saved_environments(state, self.num_envs), strict=True):
            restore_state(env, saved)
        self.observations[:] = state["observations"]
        return sorted({name for saved in state["envs"] for name in saved["unknown"]})

    def close(self) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()

    def _call(self, index: int, method: str, *args: Any, **kwargs: Any) -> Any:
        return call(self.envs[index], (self.name, index, self.num_envs), method, *args, **kwargs)


def call(env: gym.Env, place: tuple[str, int, int], method: str, *args: Any, **kwargs: Any) -> Any:
    """What a method of an environment returns; a simulator that takes 31 bits at most gets the lower ones of a seed.

    Args:
        env: The environment.
        place: Its name, its index and the number of environments.
        method: Name of the method.
        args: Of the method.
        kwargs: Of the method.

    Raises:
        EnvironmentFailure: It raised.
    """
    try:
        return getattr(env, method)(*args, **kwargs)
    except Exception as error:
        if kwargs.get("seed", 0) >= 2**31:
            return call(env, place, method, *args, **{**kwargs, "seed": kwargs["seed"] % 2**31})
        raise raised_in(*place, method, error) from error


def raised_in(name: str, index: int, num_envs: int, method: str, error: Exception) -> EnvironmentFailure:
    """The failure to raise when one of N environments raised an error of its own."""
    return EnvironmentFailure(f"environment {index} of {num_envs} ({name}) raised in {method}: {error!r}")


def require_finite(name: str, num_envs: int, what: str, values: np.ndarray, first: int = 0) -> None:
    """Raise EnvironmentFailure, naming the first environment at fault, unless every value is finite.

    Args:
        name: Of the task.
        num_envs: N.
        what: Name of the values in the message.
        values: ``[n, ...]``, a row for each environment from ``first`` on.
        first: Index of the environment of the first row.
    """
    faulty = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if len(faulty):
        where = f"environment {first + faulty[0]} of {num_envs} ({name})"
        raise EnvironmentFailure(f"{where} returned a {what} that is not finite: {values[faulty[0]]}")


def require_finite_step(name: str, step: VectorStep) -> None:
    """:func:`require_finite` of all that a step returned."""
    num_envs = len(step.rewards)
    require_finite(name, num_envs, "reward", step.rewards)
    require_finite(name, num_envs, "observation", step.observations)
    for i, final in step.final_observations.items():
        require_finite(name, num_envs, "final observation", final[None], first=i)


def saved_environments(state: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """The states of the single environments in one that either engine saved.

    Raises:
        ValueError: There are not ``num_envs`` of them.
    """
    if len(state["envs"]) != num_envs:
        raise ValueError(f"{len(state['envs'])} environments were saved, there are {num_envs}")
    return list(state["envs"])


def time_limit(env: gym.Env) -> Any:
    """The ``TimeLimit`` that counts the steps of the episode; None where there is none."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, gym.wrappers.TimeLimit):
            return env
        env = env.env
    return None


def staggered_ages(num_envs: int, limit: int) -> list[int]:
    """Ages in steps, equally spaced over an episode; the first is 0."""
    return [i * limit // num_envs for i in range(num_envs)]
