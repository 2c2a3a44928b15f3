"""What a callback sees of :class:`r2vpo.control.R2VPO`, which adds learning, acting and files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import gymnasium as gym

from r2vpo.control.collector import ActionBounds, Collector
from r2vpo.control.config import ControlConfig
from r2vpo.control.evaluation import BatchPolicy, EpisodeLog, EvaluationResult
from r2vpo.control.learner import Learner
from r2vpo.control.overlap import OverlappedCollector
from r2vpo.control.policy import GaussianPolicy
from r2vpo.control.run import GradientStep, TrainingRun
from r2vpo.envs.making import EnvSource
from r2vpo.runs.directory import RunDirectory
from r2vpo.runs.logger import Logger


class Model(ABC):
    """A training run, read only."""

    _training: TrainingRun

    @property
    def config(self) -> ControlConfig:
        """Every setting."""
        return self._training.config

    @property
    def learner(self) -> Learner:
        """Networks, optimizer, lambda and replay buffer."""
        return self._training.learner

    @property
    def policy(self) -> GaussianPolicy:
        """The Gaussian policy; its observation statistics are part of it."""
        return self._training.learner.policy

    @property
    def collector(self) -> Collector | OverlappedCollector:
        """Steps the environments; made on first use."""
        return self._training.collector

    @property
    def engine(self) -> str:
        """What steps the environments, and why."""
        return self._training.engine

    @property
    def observation_space(self) -> gym.spaces.Box:
        """Of one environment."""
        return self._training.observation_space

    @property
    def action_space(self) -> gym.spaces.Box:
        """Of one environment."""
        return self._training.action_space

    @property
    def bounds(self) -> ActionBounds:
        """What turns samples of the policy into actions."""
        return self._training.bounds

    @property
    def env_id(self) -> str | None:
        """What Gymnasium calls the environment; None where a function or an object was given."""
        given_by_id = isinstance(self._training.source, str) or bool(self.config.env_kwargs)
        return self.config.env if given_by_id else None

    @property
    def run(self) -> RunDirectory | None:
        """The run directory, where there is one."""
        return self._training.directory

    @property
    def logger(self) -> Logger:
        """Takes numbers of a callback's own: they go wherever the metrics of the iteration go."""
        return self._training.logger

    @property
    def episodes(self) -> EpisodeLog:
        """Training episodes that have ended."""
        return self._training.episodes

    @property
    def metrics(self) -> dict[str, Any]:
        """Of the last iteration, as in metrics.jsonl; empty before the first."""
        return self._training.metrics

    @property
    def num_timesteps(self) -> int:
        """Environment steps taken, over all environments."""
        return self._training.num_timesteps

    @property
    def schedule_start(self) -> int:
        """Environment steps at which the current learning-rate schedule began."""
        return self._training.schedule_start

    @property
    def train_seconds(self) -> float:
        """Wall-clock seconds of training, compiling included."""
        return self._training.train_seconds

    @property
    def gradient_step(self) -> GradientStep | None:
        """How the last call of ``learn`` took its gradient steps, and why."""
        return self._training.gradient_step

    def require_spaces_of(self, env: EnvSource | gym.Env) -> None:
        """Raise ConfigError unless an environment has the spaces that the policy was made for."""
        self._training.require_spaces_of(env)

    @abstractmethod
    def act(self, deterministic: bool) -> BatchPolicy:
        """A function from a batch of observations to actions."""

    @abstractmethod
    def evaluate(
        self,
        episodes: int = 20,
        deterministic: bool = True,
        seed: int | None = None,
        max_episode_steps: int | None = None,
    ) -> EvaluationResult:
        """Returns of complete episodes in fresh environments."""

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write everything to one file."""
