"""One training run: what it holds, and all of it as a tree of plain values from which it goes on bit for bit."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from r2vpo.control.collector import ActionBounds, Collector
from r2vpo.control.config import ControlConfig
from r2vpo.control.evaluation import EpisodeLog, make_up_to
from r2vpo.control.learner import Learner
from r2vpo.control.overlap import CollectorSpec, OverlappedCollector, noise_seed
from r2vpo.control.presets import config_dict, saved_config
from r2vpo.envs.engines import AnyVectorEnv, make_vector_env
from r2vpo.envs.gate import close_all
from r2vpo.envs.making import EnvSource, env_name, env_with, make_env, require_box_spaces
from r2vpo.envs.native.simulations import default_threads
from r2vpo.envs.vector import VectorEnv
from r2vpo.errors import CheckpointError, ConfigError
from r2vpo.processes import torch_threads
from r2vpo.runs.directory import RunDirectory
from r2vpo.runs.logger import Logger
from r2vpo.runs.provenance import package_versions

KIND = "r2vpo.control"


def needs_its_function(name: str) -> str:
    """What ``env`` must be for a model whose environment has no id that Gymnasium knows here."""
    return (
        f"given from Python, the function or the environment that made {name}: "
        f"R2VPO.resume(run_dir, env={name}).learn(), R2VPO.load(path, env={name}).evaluate()"
    )


_COUNTERS = ("num_timesteps", "schedule_start", "train_seconds")


@dataclass(frozen=True)
class GradientStep:
    """How gradient steps are taken, why, and what it took to prepare them."""

    kind: str
    """``compiled`` or ``eager``."""
    reason: str
    seconds: float = 0.0


class TrainingRun:
    """Settings, learner, environments, episodes, counters and run directory of one training.

    Args:
        config: With delta as a number.
        spaces: Of observations and actions.
        source: What environments are made from, or the one there is; None for a saved model whose environment was made
            by a function that nobody gave again.
        envs: Environments that were made already.
    """

    def __init__(
        self,
        config: ControlConfig,
        spaces: tuple[gym.spaces.Box, gym.spaces.Box],
        source: EnvSource | gym.Env | None,
        envs: AnyVectorEnv | None = None,
    ) -> None:
        self.config = config
        self.observation_space, self.action_space = spaces
        self.source = source
        self.bounds = ActionBounds(self.action_space, config.action_bounds)
        self.generator = torch.Generator().manual_seed(config.seed)
        sizes = gym.spaces.flatdim(self.observation_space), gym.spaces.flatdim(self.action_space)
        with torch_threads(config.torch_threads):
            self.learner = Learner(*sizes, config, self.generator)
        self.episodes = EpisodeLog()
        self.num_timesteps = 0
        """Environment steps taken, over all environments."""
        self.schedule_start = 0
        """Environment steps at which the current learning-rate schedule began."""
        self.train_seconds = 0.0
        self.gradient_step: GradientStep | None = None
        """How gradient steps were taken last, and why."""
        self.metrics: dict[str, Any] = {}
        """Of the last iteration."""
        self.logger = Logger()
        self.directory: RunDirectory | None = None
        self._envs = envs
        self._collector: Collector | OverlappedCollector | None = None
        self._pending: dict[str, Any] | None = None
        """Saved state that the environments take on when they are made."""

    @property
    def end(self) -> int:
        """Environment steps at which the schedule ends."""
        return self.schedule_start + self.config.total_steps

    def schedule(self, total_steps: int, anew: bool) -> None:
        """Begin a schedule of so many environment steps, counting from 0 or from where the run is."""
        self.config = replace(self.config, total_steps=total_steps)
        if anew:
            self.num_timesteps, self.episodes = 0, EpisodeLog()
        self.schedule_start = self.num_timesteps
        if self.directory is not None:
            self.directory.update_config({"total_steps": self.config.total_steps})

    @property
    def env_source(self) -> EnvSource | gym.Env:
        """What environments are made from, or the one there is.

        Raises:
            ConfigError: The model was loaded without its environment.
        """
        if self.source is None:
            raise ConfigError("env", None, needs_its_function(self.config.env))
        return self.source

    @contextmanager
    def evaluation_envs(self, count: int) -> Iterator[list[gym.Env]]:
        """Up to so many environments to evaluate in; what was trained on where no new one can be had.

        Training goes on from where it was: the episodes under way are put back, or begun anew where an environment
        keeps state that cannot be saved.
        """
        source = self.env_source
        if isinstance(source, gym.Env):
            own, new = [source], []
        else:
            own = self._envs.envs if isinstance(self._envs, VectorEnv) else []
            new = make_up_to(source, count, own)
        collector = self._collector if not new and isinstance(self._collector, Collector) else None
        state = None if collector is None else copy.deepcopy(collector.state_dict())
        try:
            yield new or own
        finally:
            close_all(new)
            if collector is not None and state is not None:
                self._pending = None if any(env["unknown"] for env in state["environments"]["envs"]) else state
                self._begin_episodes(collector)

    @property
    def collector(self) -> Collector | OverlappedCollector:
        """Steps the environments; made on first use, so that a loaded model predicts without any."""
        if self._collector is None:
            self._collector = self._overlapped_collector() if self.config.overlap else self._own_collector()
            self._begin_episodes(self._collector)
        return self._collector

    @property
    def engine(self) -> str:
        """What steps the environments, and why."""
        collector = self.collector
        if isinstance(collector, OverlappedCollector):
            return collector.engine
        return f"{collector.envs.engine}: {collector.envs.engine_reason}"

    def logged(self) -> AbstractContextManager[Logger]:
        """The logger, writing to the run directory and to what the config tracks the run with."""
        settings = config_dict(self.config)
        return self.logger.opened(self.directory, self.config.track, settings, self.num_timesteps)

    def close(self) -> None:
        """Close the environments and release the run directory."""
        if isinstance(self._collector, OverlappedCollector):
            self._collector.close()
        if self._envs is not None:
            self._envs.close()
        if self.directory is not None:
            self.directory.close()

    def snapshot(self, with_environments: bool = True) -> dict[str, Any]:
        """Everything the run needs to go on bit for bit, between two iterations.

        Args:
            with_environments: False leaves the environments out, for when one of them has failed: the episodes under
                way are then begun anew.
        """
        environments = None
        if with_environments:
            environments = self._pending if self._collector is None else self._collector.state_dict()
        spaces = {"observation": self.observation_space, "action": self.action_space}
        return {
            "kind": KIND,
            "versions": package_versions(),
            "config": config_dict(self.config),
            "env_is_id": isinstance(self.source, str) or bool(self.config.env_kwargs),
            "spaces": {name: {"low": space.low, "high": space.high} for name, space in spaces.items()},
            "learner": self.learner.state_dict(),
            "environments": environments,
            "generator": self.generator.get_state(),
            "episodes": asdict(self.episodes),
            "counters": {name: getattr(self, name) for name in _COUNTERS},
        }

    @classmethod
    def of_snapshot(cls, tree: dict[str, Any], origin: str, given: EnvSource | gym.Env | None) -> TrainingRun:
        """The run that :meth:`snapshot` described.

        Args:
            tree: As saved.
            origin: Where it was saved, for messages.
            given: What environments are made from; None where the saved id will do.

        Raises:
            ConfigError: The environment that is given has other spaces.
            CheckpointError: Not a snapshot of a control run, of a version whose settings differ, or damaged.
        """
        if tree.get("kind") != KIND:
            raise CheckpointError(f"{origin} holds {tree.get('kind')!r}, not a control model ({KIND!r})")
        try:
            config = saved_config(tree["config"])
            bounds = (tree["spaces"][name] for name in ("observation", "action"))
            observations, actions = (gym.spaces.Box(b["low"], b["high"], dtype=b["low"].dtype.type) for b in bounds)
            source = env_with(config.env, config.env_kwargs) if given is None and tree["env_is_id"] else given
            if given is not None:
                config = replace(config, env_kwargs={})
        except (KeyError, TypeError, ConfigError) as error:
            raise CheckpointError(f"{origin} does not fit this version of the library: {error}") from error
        run = cls(config, (observations, actions), source)
        if given is not None:
            run.require_spaces_of(given)
        try:
            run.learner.load_state_dict(tree["learner"])
            run.generator.set_state(tree["generator"])
            run.episodes = EpisodeLog(**{name: list(values) for name, values in tree["episodes"].items()})
            for name in _COUNTERS:
                setattr(run, name, tree["counters"][name])
            run._pending = tree["environments"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{origin} is damaged: {error}") from error
        return run

    def require_spaces_of(self, source: EnvSource | gym.Env) -> None:
        """Raise ConfigError unless an environment has the spaces that the policy was made for."""
        env = source if isinstance(source, gym.Env) else make_env(source)
        try:
            self._require_spaces(env_name(env), *require_box_spaces(env))
        finally:
            if env is not source:
                close_all([env])

    def _require_spaces(self, env: str, observations: gym.spaces.Box, actions: gym.spaces.Box) -> None:
        """Raise ConfigError unless these are the spaces that the policy was made for."""
        for name, saved, other in (
            ("observation", self.observation_space, observations),
            ("action", self.action_space, actions),
        ):
            if saved.shape != other.shape or (saved.low != other.low).any() or (saved.high != other.high).any():
                kept = f"one with the {name} space of the saved model, {saved}"
                raise ConfigError("env", env, f"{kept}; this one has {other}")

    def _own_collector(self) -> Collector:
        config = self.config
        if self._envs is None:
            threads = config.env_threads or None
            envs = make_vector_env(self.env_source, config.num_envs, config.engine, threads)
            self._require_spaces(envs.name, envs.observation_space, envs.action_space)
            self._envs = envs
        return Collector(self._envs, self.learner.policy, self.bounds, self.generator, config.stagger)

    def _overlapped_collector(self) -> OverlappedCollector:
        config, policy, source = self.config, self.learner.policy, self.env_source
        if isinstance(source, gym.Env):
            raise ConfigError("overlap", True, "False for one environment; give its id or a function that makes it")
        spec = CollectorSpec(
            source,
            config.num_envs,
            config.engine,
            config.env_threads or max(1, default_threads(config.num_envs) - 1),  # the learner has a core
            policy,
            config.action_bounds,
            noise_seed(config.seed),
            config.torch_threads,
            config.stagger,
        )
        return OverlappedCollector(spec, policy)

    def _begin_episodes(self, collector: Collector | OverlappedCollector) -> None:
        """Give new environments the saved state, or begin new episodes where there is none."""
        pending, self._pending = self._pending, None
        if pending is None:
            seed = np.random.SeedSequence([self.config.seed, self.num_timesteps]).generate_state(1)[0]
            collector.reset(int(seed))
            return
        try:
            unknown = collector.load_state_dict(pending)
        except ValueError as error:
            raise CheckpointError(f"the environments cannot take on the saved state: {error}") from error
        if unknown:
            warnings.warn(
                f"{self.config.env} keeps state that cannot be saved ({', '.join(unknown)}); the run goes on, but not "
                "bit for bit as if it had never stopped",
                stacklevel=2,
            )
