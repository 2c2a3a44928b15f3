"""EnvPool, stepped from C++ threads, as an engine. Optional, and never chosen without being asked for.

It brings a MuJoCo of its own, so that its trajectories are not those of the other engines, and it can neither read
nor set the state of an environment, so that a resumed run begins new episodes.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from r2vpo.envs.checks import require_finite
from r2vpo.envs.making import EnvSource, make_env, require_box_spaces
from r2vpo.envs.vector import VectorStep
from r2vpo.errors import ConfigError, EnvironmentFailure

_UNSAVED = "EnvPool's episodes under way"


class EnvPoolVectorEnv:
    """N environments of one task in EnvPool, reset in the step that ends an episode.

    Spaces and the time limit are Gymnasium's. An episode that reaches a terminal state in the very step of its time
    limit is reported as truncated: EnvPool tells the two apart by the number of steps alone.

    Args:
        env_id: An id that Gymnasium and EnvPool both know.
        num_envs: N.
        threads: EnvPool's threads; None leaves it to EnvPool, which takes one for each environment within the cores.

    Raises:
        ConfigError: EnvPool is not installed or does not know the task, or ``num_envs`` or ``threads`` is below 1.
    """

    restores_episodes: ClassVar[bool] = False
    """Whether episodes under way go on where a saved state left them."""

    def __init__(self, env_id: EnvSource | gym.Env, num_envs: int, threads: int | None = None) -> None:
        for field, value in (("num_envs", num_envs), ("threads", threads)):
            if value is not None and value < 1:
                raise ConfigError(field, value, "at least 1")
        self._envpool = _import_envpool()
        spec, self.observation_space, self.action_space = _gymnasium_side(env_id, self._envpool.list_all_envs())
        self.name = spec.id
        self.num_envs = num_envs
        self._options: dict[str, Any] = {"num_envs": num_envs, "num_threads": threads or 0}
        if spec.max_episode_steps is not None:
            self._options["max_episode_steps"] = spec.max_episode_steps
        self._pool: Any = None
        self._seed = self._steps = 0
        self.observations = np.empty((num_envs, *self.observation_space.shape))
        """``[N, D]``, what to act on next."""

    def reset(self, seed: int) -> np.ndarray:
        """Start new episodes, each environment with a seed of its own derived from ``seed``.

        Returns:
            Observations, ``[N, D]``.
        """
        self.close()
        # Seeds can only be given to a new pool, and EnvPool takes 31 bits.
        seeds = np.random.SeedSequence(seed).generate_state(self.num_envs) >> np.uint32(1)
        self._pool = self._envpool.make(self.name, env_type="gymnasium", seed=seeds.tolist(), **self._options)
        self._seed, self._steps = seed, 0
        self.observations = np.empty_like(self.observations)
        self._begin(np.arange(self.num_envs, dtype=np.int32))
        require_finite(self.name, self.num_envs, "observation", self.observations)
        return self.observations.copy()

    def stagger(self) -> np.ndarray:
        """Nothing: EnvPool counts the steps of its episodes itself. Returns False for each, ``[N]``."""
        return np.zeros(self.num_envs, dtype=bool)

    def step(self, actions: np.ndarray) -> VectorStep:
        """Take one step in each environment with actions ``[N, A]``.

        Raises:
            EnvironmentFailure: Actions of another shape, or a reward or observation that is not finite.
        """
        expected = (self.num_envs, *self.action_space.shape)
        if actions.shape != expected:
            raise EnvironmentFailure(f"{self.name} got actions of shape {actions.shape} instead of {expected}")
        observations, rewards, terminated, truncated, _ = self._pool.step(actions)
        rewards, self.observations = np.array(rewards, dtype=np.float64), np.array(observations, dtype=np.float64)
        require_finite(self.name, self.num_envs, "reward", rewards)
        require_finite(self.name, self.num_envs, "observation", self.observations)
        self._steps += 1
        ended = np.flatnonzero(terminated | truncated).astype(np.int32)
        finals = {i: self.observations[i].copy() for i in ended.tolist()}
        if finals:
            # Left alone, EnvPool would spend the next step on the reset and ignore its action.
            self._begin(ended)
        return VectorStep(self.observations.copy(), rewards, terminated.copy(), truncated.copy(), finals)

    def state_dict(self) -> dict[str, Any]:
        """All there is to save: the seed of the last reset and the steps since."""
        return {"envpool": {"seed": self._seed, "steps": self._steps}, "num_envs": self.num_envs}

    def load_state_dict(self, state: dict[str, Any]) -> list[str]:
        """Begin new episodes, with seeds derived from what :meth:`state_dict` returned.

        Returns:
            Names of what could not be restored: the episodes.

        Raises:
            ValueError: The state is another engine's, or of another number of environments.
        """
        if "envpool" not in state:
            raise ValueError("the state was saved by another engine than envpool")
        if state["num_envs"] != self.num_envs:
            raise ValueError(f"{state['num_envs']} environments were saved, there are {self.num_envs}")
        saved = state["envpool"]
        self.reset(int(np.random.SeedSequence([saved["seed"], saved["steps"]]).generate_state(1)[0]))
        return [_UNSAVED]

    def close(self) -> None:
        """End EnvPool's threads."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _begin(self, indices: np.ndarray) -> None:
        observations, info = self._pool.reset(indices)
        self.observations[info["env_id"]] = observations


def _import_envpool() -> ModuleType:
    try:
        import envpool
    except ImportError as error:
        allowed = f"auto, native or gymnasium unless EnvPool is installed: pip install envpool ({error})"
        raise ConfigError("engine", "envpool", allowed) from error
    return envpool


def _gymnasium_side(
    env_id: EnvSource | gym.Env, known: list[str]
) -> tuple[gym.envs.registration.EnvSpec, gym.spaces.Box, gym.spaces.Box]:
    """Gymnasium's entry for a task and its spaces, once it is clear that EnvPool has the same task."""
    if not isinstance(env_id, str):
        raise ConfigError("env", env_id, "a task that EnvPool knows by id (this one is made by the caller's own code)")
    env = make_env(env_id)
    try:
        require_box_spaces(env)
        spec = gym.registry[env_id]
        if env_id not in known:
            raise ConfigError("env", env_id, "a task that EnvPool knows; envpool.list_all_envs() names them")
        if not str(spec.entry_point).startswith("gymnasium.envs."):
            raise ConfigError("env", env_id, "registered with Gymnasium's own class, the one EnvPool reproduces")
        return spec, env.observation_space, env.action_space
    finally:
        env.close()
