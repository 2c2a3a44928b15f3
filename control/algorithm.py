"""R²VPO for continuous control, with the surface of a Stable-Baselines3 algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from r2vpo.control.callbacks import MaybeCallback, Model, as_callback
from r2vpo.control.evaluation import EVALUATION_SEED, BatchPolicy, EvaluationResult, evaluate_policy
from r2vpo.control.pictures.films import Render
from r2vpo.control.pictures.watching import Watched, watch
from r2vpo.control.presets import UNSAID, config_dict, resolve_config, warn_of_stale_anchor
from r2vpo.control.run import TrainingRun, needs_its_function
from r2vpo.control.training import train
from r2vpo.envs.engines import Engine, make_vector_env
from r2vpo.envs.making import EnvSource, env_name, env_with
from r2vpo.errors import ConfigError
from r2vpo.runs.checkpoint import load_tree, save_tree
from r2vpo.runs.directory import CHECKPOINT, RunDirectory
from r2vpo.validation import Count, Seed, checked


class R2VPO(Model):
    """Ratio-variance regularized policy optimization with a Gaussian policy (arXiv 2601.03320, Algorithms 1-2).

    Args:
        env: A Gymnasium id, a function that makes a new environment, or one environment (trained on alone).
            Observations must be a Box of numbers, actions a Box of floats, of any shape: the policy has them flat.
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
        *more: Any,
        seed: int = 0,
        run_dir: str | Path | None = None,
        **settings: Any,
    ) -> None:
        if more:
            raise ConfigError(
                "env", env, f"the only argument without a name, {more[0]!r} say; the policy is a Gaussian one"
            )
        if isinstance(env, gym.Env):
            settings = {"num_envs": 1, "rollout_steps": 2048, **settings}
        config = resolve_config({**settings, "env": env_name(env), "seed": seed})
        if isinstance(env, str):
            env = env_with(env, config.env_kwargs)
        elif config.env_kwargs:
            raise ConfigError("env_kwargs", config.env_kwargs, "left out where env is no id")
        if config.overlap and isinstance(env, gym.Env):
            raise ConfigError("overlap", True, "False for one environment; give its id or a function that makes it")
        warn_of_stale_anchor(config)
        # Overlapped, the environments live in another process, and this one only tells the spaces.
        shown: tuple[int, Engine] = (1, "gymnasium") if config.overlap else (config.num_envs, config.engine)
        envs = make_vector_env(env, *shown, config.env_threads or None)
        config = replace(config, delta=config.delta_for(gym.spaces.flatdim(envs.action_space)))
        self._hold(TrainingRun(config, (envs.observation_space, envs.action_space), env, envs))
        if run_dir is not None:
            self._training.directory = RunDirectory(run_dir, config_dict(config))

    def _hold(self, training: TrainingRun) -> None:
        self._training = training
        self.predict_generator = torch.Generator().manual_seed(training.config.seed)

    @classmethod
    def _anew(cls, name: str, settings: dict[str, Any], env: EnvSource | gym.Env | None) -> R2VPO:
        """A run that has no checkpoint yet, from its config.json."""
        settings = {**UNSAID, **settings}
        if env is not None:
            return cls(env, **{**settings, "env_kwargs": {}})
        try:
            return cls(name, **settings)
        except ConfigError as error:
            if error.field != "env":
                raise
            raise ConfigError("env", name, f"{error.allowed}; or {needs_its_function(name)}") from error

    @classmethod
    def _of(cls, training: TrainingRun) -> R2VPO:
        model = cls.__new__(cls)
        model._hold(training)
        return model

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
            callback: One callback, ours or Stable-Baselines3's, a list of them, or a function
                ``(locals, globals) -> bool``.
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
            self._training.schedule(total_timesteps, anew=reset_num_timesteps)
        hook = as_callback(callback)
        if self.run is not None:
            self.run.hold()
        try:
            with self._training.logged():
                hook.init_callback(self)
                train(self._training, hook, progress_bar, self.evaluate)
        finally:
            if self.run is not None:
                self.run.close()  # from here on resume() can have it; the next call of learn takes it again
        return self

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Action for one raw observation, of the shape of its space, or for a batch of them, ``[N, *shape]``.

        ``state`` and ``episode_start`` exist for code written for recurrent policies; ``state`` is returned as given.

        Raises:
            ValueError: The observation has another shape.
        """
        raw, shape = np.asarray(observation), self.observation_space.shape
        batched = raw.ndim == len(shape) + 1
        if raw.shape[batched:] != shape:
            one = ", ".join(map(str, shape))
            raise ValueError(f"observation has shape {raw.shape}, the policy takes [{one}] or [N, {one}]")
        rows = self.policy.normalizer.relative(raw.reshape(-1, gym.spaces.flatdim(self.observation_space)))
        with torch.no_grad():
            samples = self.policy.mean(torch.from_numpy(rows))
            if not deterministic:
                noise = torch.randn(samples.shape, generator=self.predict_generator)
                samples = samples + noise * self.policy.bounded_log_std().exp()
        actions = self.bounds(samples.numpy()).reshape(-1, *self.action_space.shape)
        return (actions if batched else actions[0]), state

    def act(self, deterministic: bool) -> BatchPolicy:
        """This policy as a function of a batch of observations."""
        return lambda observations: self.predict(observations, deterministic=deterministic)[0]

    def evaluate(
        self,
        episodes: int = 20,
        deterministic: bool = True,
        seed: int | None = None,
        max_episode_steps: int | None = None,
    ) -> EvaluationResult:
        """Undiscounted returns of complete episodes in fresh environments.

        An environment that was given as an object is evaluated itself, with whatever was changed in it; so are those of
        training where a simulator allows no more of them. Their episodes under way go on afterwards.

        Args:
            episodes: How many.
            deterministic: Act by the mean instead of sampling.
            seed: First reset seed; by default one that depends on the training seed alone.
            max_episode_steps: Steps at which an episode is cut, with a warning; by default ``eval_max_episode_steps``.
        """
        episodes = checked("episodes", episodes, Count)
        seed = checked("seed", EVALUATION_SEED + self.config.seed if seed is None else seed, Seed)
        cut_at = self.config.eval_max_episode_steps if max_episode_steps is None else max_episode_steps
        self.predict_generator.manual_seed(seed)
        with self._training.evaluation_envs(episodes) as envs:
            return evaluate_policy(self.act(deterministic), envs, episodes, seed, cut_at)

    def watch(
        self,
        path: str | Path | None = None,
        *,
        render: Render = "film",
        env: EnvSource | gym.Env | None = None,
        env_kwargs: Mapping[str, Any] | None = None,
        deterministic: bool = True,
        seed: int | None = None,
        max_episode_steps: int | None = None,
        size: int | None = None,
        progress_bar: bool = False,
    ) -> Watched:
        """Film one episode at 30 frames a second, as long as it lasts, or play it in a window.

        Args:
            path: Of the film; -2, -3, ... is added where there is one. By default video.mp4 in the run directory.
            render: ``film``, or ``human`` for a window.
            env: Another environment of the same spaces: an id, a function that makes one that renders, or one.
            env_kwargs: Arguments of the environment, where it is an id.
            deterministic: Act by the mean instead of sampling.
            seed: Of the episode; by default that of the training.
            max_episode_steps: Steps at which it is cut; by default the environment's time limit, or 2000.
            size: Width and height of the film in pixels, for MuJoCo tasks.
            progress_bar: Show the live line.

        Raises:
            ConfigError: The environment does not render, or has other spaces.
            EnvironmentFailure: It raised, or returned what its spaces do not promise.
        """
        return watch(
            self,
            path,
            render=render,
            env=env,
            env_kwargs=env_kwargs,
            deterministic=deterministic,
            seed=seed,
            max_episode_steps=max_episode_steps,
            size=size,
            progress_bar=progress_bar,
        )

    def save(self, path: str | Path) -> None:
        """Write everything to one file: policy, statistics, optimizer, replay buffer, random and environment states."""
        path = Path(path)
        save_tree(path if path.suffix else path.with_suffix(".zip"), self._training.snapshot())

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
        return cls._of(TrainingRun.of_snapshot(tree, str(path), env))

    @classmethod
    def resume(cls, run_dir: str | Path, env: EnvSource | gym.Env | None = None) -> R2VPO:
        """Open a run where its newest checkpoint left it; ``learn()`` then finishes it.

        Raises:
            RunDirectoryError: No run there, or another process has it.
            CheckpointError: The checkpoint is damaged.
        """
        directory = RunDirectory(run_dir)
        try:
            tree = directory.load_checkpoint()
            if tree is None:
                settings = directory.config()
                model = cls._anew(settings.pop("env"), settings, env)
            else:
                model = cls._of(TrainingRun.of_snapshot(tree, str(directory.checkpoint_path), env))
            directory.drop_metrics_after(model.num_timesteps)
        except BaseException:
            directory.close()
            raise
        model._training.directory = directory
        return model

    def close(self) -> None:
        """Close the environments and release the run directory."""
        self._training.close()
