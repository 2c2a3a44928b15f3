"""R²VPO for continuous control, with the surface of a Stable-Baselines3 algorithm."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from r2vpo.control.callbacks import MaybeCallback, as_callback
from r2vpo.control.collector import ActionBounds, Collector
from r2vpo.control.config import ControlConfig
from r2vpo.control.evaluation import EVALUATION_SEED, BatchPolicy, EpisodeLog, EvaluationResult, evaluate_policy
from r2vpo.control.learner import Learner
from r2vpo.control.overlap import CollectorSpec, OverlappedCollector, noise_seed
from r2vpo.control.presets import config_dict, resolve_config
from r2vpo.control.run import read_identity, restore_environments, restore_snapshot, take_snapshot
from r2vpo.control.training import GradientStep, train
from r2vpo.envs.engines import AnyVectorEnv, make_vector_env
from r2vpo.envs.making import EnvSource
from r2vpo.envs.native.simulations import default_threads
from r2vpo.errors import ConfigError
from r2vpo.processes import torch_threads
from r2vpo.runs.checkpoint import load_tree, save_tree
from r2vpo.runs.directory import CHECKPOINT, RunDirectory

AnyCollector = Collector | OverlappedCollector


class R2VPO:
    """Ratio-variance regularized policy optimization with a Gaussian policy (arXiv 2601.03320, Algorithms 1-2).

    Args:
        env: A Gymnasium id, a function that makes a new environment, or one environment (trained on alone).
            Observations and actions must be one-dimensional Boxes.
        seed: Seed of weights, action noise, minibatches and environments.
        run_dir: Where config, metrics, checkpoints, curve and summary go; None writes nothing.
        settings: Fields of :class:`r2vpo.control.config.ControlConfig`; the rest comes from the algorithm's preset.

    Raises:
        ConfigError: A setting is unknown or outside its range, or the spaces do not fit.
        RunDirectoryError: ``run_dir`` cannot be written, is in use or holds a run.
    """

    def __init__(
        self,
        env: EnvSource | gym.Env,
        *,
        seed: int = 0,
        run_dir: str | Path | None = None,
        **settings: Any,
    ) -> None:
        if isinstance(env, gym.Env):
            settings = {"num_envs": 1, **settings}
            settings.setdefault("rollout_steps", 2048)
        name = env if isinstance(env, str) else _source_name(env)
        config = resolve_config({**settings, "env": name, "seed": seed})
        if config.overlap and isinstance(env, gym.Env):
            raise ConfigError("overlap", True, "False for one environment; give its id or a function that makes it")
        _warn_of_stale_anchor(config)
        # Overlapped, the environments live in another process, and this one only tells the spaces.
        shown, engine = (1, "gymnasium") if config.overlap else (config.num_envs, config.engine)
        envs = make_vector_env(env, shown, engine, config.env_threads or None)
        config = replace(config, delta=config.delta_for(envs.action_space.shape[0]))
        self._assemble(config, (envs.observation_space, envs.action_space))
        self._source: EnvSource | gym.Env | None = env
        self._envs: AnyVectorEnv | None = envs
        if run_dir is not None:
            self.run = RunDirectory(run_dir, config_dict(config))

    def _assemble(self, config: ControlConfig, spaces: tuple[gym.spaces.Box, gym.spaces.Box]) -> None:
        self.observation_space, self.action_space = spaces
        self.bounds = ActionBounds(self.action_space, config.action_bounds)
        self.config = config
        self.generator = torch.Generator().manual_seed(config.seed)
        self.predict_generator = torch.Generator().manual_seed(config.seed)
        sizes = self.observation_space.shape[0], self.action_space.shape[0]
        with torch_threads(config.torch_threads):
            self.learner = Learner(*sizes, config, self.generator)
        self.episodes = EpisodeLog()
        self.num_timesteps = 0
        """Environment steps taken, over all environments."""
        self.schedule_start = 0
        """Environment steps at which the current learning-rate schedule began."""
        self.train_seconds = 0.0
        self.run: RunDirectory | None = None
        self._collector: AnyCollector | None = None
        self.gradient_step: GradientStep | None = None
        """How the last call of :meth:`learn` took its gradient steps, and why."""
        self.pending_environments: dict[str, Any] | None = None
        """Saved state that the environments take on when they are made."""
        self._source = None
        self._envs = None

    @property
    def env_is_id(self) -> bool:
        """Whether the environment can be made again from its name alone."""
        return isinstance(self._source, str)

    @property
    def policy(self) -> torch.nn.Module:
        """The Gaussian policy; its observation statistics are part of it."""
        return self.learner.policy

    @property
    def has_environments(self) -> bool:
        """Whether environments are being stepped already."""
        return self._collector is not None

    @property
    def engine(self) -> str:
        """What steps the environments, and why."""
        collector = self.collector
        if isinstance(collector, OverlappedCollector):
            return collector.engine
        return f"{collector.envs.engine}: {collector.envs.engine_reason}"

    @property
    def collector(self) -> AnyCollector:
        """Steps the environments; made on first use, so that a loaded model predicts without any."""
        if self._collector is None:
            self._collector = self._overlapped_collector() if self.config.overlap else self._own_collector()
            restore_environments(self, self._collector)
        return self._collector

    def _own_collector(self) -> Collector:
        config = self.config
        if self._envs is None:
            threads = config.env_threads or None
            self._envs = make_vector_env(self._evaluation_source(), config.num_envs, config.engine, threads)
        return Collector(self._envs, self.learner.policy, self.bounds, self.generator, config.stagger)

    def _overlapped_collector(self) -> OverlappedCollector:
        config, policy = self.config, self.learner.policy
        spec = CollectorSpec(
            self._evaluation_source(),
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

    def learn(
        self,
        total_timesteps: int | None = None,
        callback: MaybeCallback = None,
        progress_bar: bool = False,
        reset_num_timesteps: bool = True,
    ) -> R2VPO:
        """Train.

        Args:
            total_timesteps: Environment steps, rounded up to whole rollouts; the learning rate decays over them.
                None finishes the schedule under way, which is how a resumed run goes on.
            callback: One callback, a list of them, or a function ``(locals, globals) -> bool``.
            progress_bar: Show the live line.
            reset_num_timesteps: When False and ``total_timesteps`` is given, count on from the steps taken.

        Raises:
            ConfigError: Counting anew in a run directory that holds a run already.
            EnvironmentFailure: An environment raised or returned a non-finite value.
            TrainingDiverged: An update had no finite gradient step.
            KeyboardInterrupt: Ctrl-C; the iteration under way is finished and saved first.
        """
        if total_timesteps is not None:
            if reset_num_timesteps and self.num_timesteps and self.run is not None:
                raise ConfigError("reset_num_timesteps", True, f"False: {self.run.path} holds a run already")
            self.config = replace(self.config, total_steps=total_timesteps)
            if reset_num_timesteps:
                self.num_timesteps, self.episodes = 0, EpisodeLog()
            self.schedule_start = self.num_timesteps
            if self.run is not None:
                self.run.update_config({"total_steps": total_timesteps})
        train(self, as_callback(callback), progress_bar)
        return self

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Action for one raw observation ``[D]`` or a batch ``[N, D]``.

        ``state`` and ``episode_start`` exist for code written for recurrent policies; ``state`` is returned as given.

        Raises:
            ValueError: The observation has another size than the policy's.
        """
        batch = np.asarray(observation, dtype=np.float32)
        if batch.ndim not in (1, 2) or batch.shape[-1] != self.observation_space.shape[0]:
            expected = f"[{self.observation_space.shape[0]}] or [N, {self.observation_space.shape[0]}]"
            raise ValueError(f"observation has shape {batch.shape}, the policy takes {expected}")
        with torch.no_grad():
            samples = self.learner.policy.mean(torch.from_numpy(np.atleast_2d(batch)))
            if not deterministic:
                noise = torch.randn(samples.shape, generator=self.predict_generator)
                samples = samples + noise * self.learner.policy.bounded_log_std().exp()
        actions = self.bounds(samples.numpy())
        return (actions[0] if batch.ndim == 1 else actions), state

    def act(self, deterministic: bool) -> BatchPolicy:
        """This policy as a function of a batch of observations."""
        return lambda observations: self.predict(observations, deterministic=deterministic)[0]

    def evaluate(self, episodes: int = 20, deterministic: bool = True, seed: int | None = None) -> EvaluationResult:
        """Undiscounted returns of complete episodes in fresh environments.

        Args:
            episodes: How many.
            deterministic: Act by the mean instead of sampling.
            seed: First reset seed; by default one that depends on the training seed alone.
        """
        seed = EVALUATION_SEED + self.config.seed if seed is None else seed
        self.predict_generator.manual_seed(seed)
        return evaluate_policy(self.act(deterministic), self._evaluation_source(), episodes, seed)

    def save(self, path: str | Path) -> None:
        """Write everything to one file: policy, statistics, optimizer, replay buffer, random and environment states."""
        path = Path(path)
        save_tree(path if path.suffix else path.with_suffix(".zip"), take_snapshot(self))

    @classmethod
    def load(cls, path: str | Path, env: EnvSource | gym.Env | None = None) -> R2VPO:
        """Read what :meth:`save`, or a run's checkpoints, wrote; nothing in the file is executed.

        Args:
            path: The file, or a run directory, whose newest checkpoint is then taken.
            env: Needed to train or evaluate when the model was made from a function or an environment.

        Raises:
            CheckpointError: Missing, truncated, damaged or foreign file.
        """
        path = Path(path)
        if path.is_dir():
            path = path / CHECKPOINT
        tree = load_tree(path if path.suffix or path.exists() else path.with_suffix(".zip"))
        return cls._from_snapshot(tree, str(path), env)

    @classmethod
    def resume(cls, run_dir: str | Path, env: EnvSource | gym.Env | None = None) -> R2VPO:
        """Open a run where its newest checkpoint left it; ``learn()`` then finishes it.

        Raises:
            RunDirectoryError: No run there, or another process has it.
            CheckpointError: The checkpoint is damaged.
        """
        run = RunDirectory(run_dir)
        try:
            tree = run.load_checkpoint()
            if tree is None:
                config = resolve_config(run.config())
                model = cls(env if env is not None else config.env, **_without_env(run.config()))
            else:
                model = cls._from_snapshot(tree, str(run.checkpoint_path), env)
            run.drop_metrics_after(model.num_timesteps)
        except BaseException:
            run.close()
            raise
        model.run = run
        return model

    def close(self) -> None:
        """Close the environments and release the run directory."""
        if isinstance(self._collector, OverlappedCollector):
            self._collector.close()
        if self._envs is not None:
            self._envs.close()
        if self.run is not None:
            self.run.close()

    @classmethod
    def _from_snapshot(cls, tree: dict[str, Any], origin: str, env: EnvSource | gym.Env | None) -> R2VPO:
        config, spaces, is_id = read_identity(tree, origin)
        model = cls.__new__(cls)
        model._assemble(config, spaces)
        model._source = env if env is not None else (config.env if is_id else None)
        restore_snapshot(model, tree, origin)
        return model

    def _evaluation_source(self) -> EnvSource:
        if self._source is None:
            raise ConfigError("env", None, f"given to load(): the model was made from a function ({self.config.env})")
        if isinstance(self._source, gym.Env):
            return _respawn(self._source)
        return self._source


def _warn_of_stale_anchor(config: ControlConfig) -> None:
    """On-policy, the penalty would hold each policy near the one before the last, and so undo the last update."""
    if config.overlap and config.algo == "on-policy" and config.objective in ("r2vpo", "spo"):
        warnings.warn(
            "overlap=True with algo='on-policy': every rollout is one update old, and the penalty on the ratio then "
            "pulls the policy back to where it was; Hopper and Walker2d learn little. algo='off-policy' learns from a "
            "mixture of several policies and is not held to one of them",
            stacklevel=3,
        )


def _source_name(env: Callable[[], gym.Env] | gym.Env) -> str:
    if isinstance(env, gym.Env):
        return env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    return getattr(env, "__name__", type(env).__name__)


def _without_env(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "env"}


def _respawn(env: gym.Env) -> EnvSource:
    if env.spec is None:
        raise ConfigError("env", env, "an id or a function when it is to be evaluated: this one has no spec")
    spec = env.spec
    return lambda: gym.make(spec)
