"""Stepping several environments side by side, with the true final observation of every episode.

:class:`VectorEnv` does it for any task; what it shares with the native engine is below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from r2vpo.envs.gate import Gate, close_all, require_actions, require_held
from r2vpo.envs.making import EnvSource, env_name, make_env, require_box_spaces
from r2vpo.envs.state import capture_state, restore_state
from r2vpo.errors import ConfigError


@dataclass
class VectorStep:
    """One step of N environments. Where an episode ended, ``observations`` already belongs to the next one."""

    observations: np.ndarray
    """``[N, D]``, what to act on next, flattened."""
    rewards: np.ndarray
    """``[N]``, float64."""
    terminated: np.ndarray
    """``[N]``, bool: a terminal state was reached."""
    truncated: np.ndarray
    """``[N]``, bool: the episode was cut, by a time limit for example."""
    final_observations: dict[int, np.ndarray]
    """For each environment whose episode ended, the observation that ended it, ``[D]``, flattened."""


class VectorEnv:
    """N environments in one process, reset in the step that ends an episode.

    Gymnasium's ``SyncVectorEnv`` does the same through per-step information dictionaries, which costs a fifth of
    the steps per second of a fast MuJoCo task and hides which environment failed.

    Observations of more dimensions, or of whole numbers, leave as flat rows of floats, and flat actions get the shape
    of the action space. What leaves is a copy: an environment may write into the arrays it has returned.

    Args:
        env: Environment id or factory, or one environment that exists already (N must be 1 then).
        num_envs: N.

    Raises:
        ConfigError: Unknown id, spaces that are not Boxes, or a function that returns the same environment twice or
            environments of different spaces.
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
        _require_equal_spaces(self.name, self.envs)
        self.gates = [Gate(made, self.name, i, num_envs) for i, made in enumerate(self.envs)]
        self.observations = np.empty((num_envs, gym.spaces.flatdim(self.observation_space)))
        """``[N, D]``, what to act on next."""
        self._shaped = self.observations.reshape(num_envs, *self.observation_space.shape)
        """The same numbers, each row in the shape of the space."""
        self._actions_shape = (num_envs, *self.action_space.shape)

    def reset(self, seed: int) -> np.ndarray:
        """Start new episodes, each environment with a seed of its own derived from ``seed``.

        Returns:
            Observations, ``[N, D]``.

        Raises:
            EnvironmentFailure: An environment raised, or returned what its spaces do not promise.
        """
        # Seeds seed, seed + 1, ... would give runs with neighbouring seeds almost the same environments.
        seeds = np.random.SeedSequence(seed).generate_state(self.num_envs)
        for i, gate in enumerate(self.gates):
            self._shaped[i] = gate.reset(int(seeds[i]))
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
                self.gates[i].steps = limited._elapsed_steps
                older[i] = limited._elapsed_steps > 0
        return older

    def step(self, actions: np.ndarray) -> VectorStep:
        """Take one step in each environment with actions ``[N, A]``.

        Raises:
            EnvironmentFailure: An environment raised, or returned what its spaces do not promise.
            TrainingDiverged: An action is not finite.
        """
        require_actions(self.gates, actions)
        shaped = actions.reshape(self._actions_shape)
        rewards = np.empty(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), dtype=bool)
        finals: dict[int, np.ndarray] = {}
        for i, gate in enumerate(self.gates):
            observation, rewards[i], terminated[i], truncated[i], _ = gate.step(shaped[i])
            self._shaped[i] = observation
            if terminated[i] or truncated[i]:
                finals[i] = self.observations[i].copy()
                gate.require_held("a final observation", finals[i])
                self._shaped[i] = gate.reset()
        require_held(self.gates, self.observations)
        return VectorStep(self.observations.copy(), rewards, terminated, truncated, finals)

    def state_dict(self) -> dict[str, Any]:
        """State of every environment (see :func:`r2vpo.envs.state.capture_state`)."""
        return {
            "envs": [capture_state(env) for env in self.envs],
            "observations": self.observations.copy(),
            "steps": [gate.steps for gate in self.gates],
        }

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
        # States from before steps were counted have none.
        for gate, steps in zip(self.gates, state.get("steps", [0] * self.num_envs), strict=True):
            gate.steps = steps
        return sorted({name for saved in state["envs"] for name in saved["unknown"]})

    def close(self) -> None:
        """Close every environment."""
        close_all(self.envs)


def _require_equal_spaces(name: str, envs: list[gym.Env]) -> None:
    observations, actions = require_box_spaces(envs[0])
    for env in envs[1:]:
        for one, other in zip((observations, actions), require_box_spaces(env), strict=True):
            if one.shape != other.shape or (one is actions and one != other):
                raise ConfigError("env", name, f"a function whose environments have one space, not {one} and {other}")


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
