"""Gymnasium environments for rsl_rl's runners, so that MuJoCo tasks train without a GPU simulator."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from rsl_rl.env import VecEnv
from tensordict import TensorDict

from r2vpo.envs.engines import Engine, make_vector_env
from r2vpo.envs.making import EnvSource

OBSERVATION_GROUP = "policy"
"""Name of the one observation group; rsl_rl takes it for the actor and for the critic unless told otherwise."""

_UNLIMITED = 10**9


class GymnasiumVecEnv(VecEnv):
    """N Gymnasium environments as an rsl_rl environment.

    An environment whose episode ended is reset in the same step: the observations already belong to the next episode,
    ``dones`` marks the end and ``extras["time_outs"]`` the ends that are truncations. Actions are clipped to the
    action space here, so that the algorithm scores what it sampled. Rewards pass as they are.

    The runner's ``init_at_random_ep_len`` has no effect: Gymnasium's time limit counts for itself.

    Args:
        env: Environment id or factory.
        num_envs: N.
        seed: Of the environments.
        engine: See :func:`r2vpo.envs.engines.make_vector_env`.
        threads: Of the native engine.
        device: Where the runner gets its tensors; the simulation itself runs on the CPU.

    Raises:
        ConfigError: Unknown environment, or spaces that are not Boxes of numbers.
    """

    def __init__(
        self,
        env: EnvSource,
        num_envs: int,
        *,
        seed: int = 0,
        engine: Engine = "auto",
        threads: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.envs = make_vector_env(env, num_envs, engine, threads)
        self.num_envs = num_envs
        self.num_actions = gym.spaces.flatdim(self.envs.action_space)
        self.device = torch.device(device)
        self.cfg = {"env": self.envs.name, "num_envs": num_envs, "seed": seed, "engine": engine}
        spec = self.envs.spec
        self.max_episode_length = (spec and spec.max_episode_steps) or _UNLIMITED
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long, device=self.device)
        self._observations = self._grouped(self.envs.reset(seed))

    @property
    def unwrapped(self) -> GymnasiumVecEnv:
        """Itself; rsl_rl's RND extension asks for it."""
        return self

    @property
    def step_dt(self) -> float:
        """1: rewards are per step, not per second. rsl_rl's RND extension multiplies its weight by it."""
        return 1.0

    def get_observations(self) -> TensorDict:
        """What to act on next: one group, ``[N, D]``."""
        return self._observations

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """Take one step in each environment.

        Args:
            actions: ``[N, A]``.

        Returns:
            Observations; rewards, float32 ``[N]``; dones, int64 ``[N]``; ``{"time_outs": bool [N]}``.

        Raises:
            EnvironmentFailure: An environment raised, or returned what its spaces do not promise.
            TrainingDiverged: An action is not finite.
        """
        low, high = self.envs.action_space.low.ravel(), self.envs.action_space.high.ravel()
        step = self.envs.step(np.clip(actions.detach().cpu().numpy(), low, high))
        done = self._tensor(step.terminated | step.truncated)
        self.episode_length_buf = torch.where(done, 0, self.episode_length_buf + 1)
        self._observations = self._grouped(step.observations)
        extras = {"time_outs": self._tensor(step.truncated & ~step.terminated)}
        return self._observations, self._tensor(step.rewards).float(), done.long(), extras

    def close(self) -> None:
        """Close every environment."""
        self.envs.close()

    def _grouped(self, observations: np.ndarray) -> TensorDict:
        return TensorDict({OBSERVATION_GROUP: self._tensor(observations).float()}, batch_size=[self.num_envs])

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).to(self.device)
