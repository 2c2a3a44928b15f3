"""Stable-Baselines3 (https://github.com/DLR-RM/stable-baselines3) and what is built on it, at its own defaults.

The on-policy ones train on normalised observations and rewards (``VecNormalize``), as in their authors' tuned settings
for MuJoCo and as our own trainer does; the statistics are frozen for evaluation.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar

import numpy as np

from r2vpo.control.evaluation import BatchPolicy, EpisodeLog
from r2vpo.control.experiments.peer_run import OnProgress, PeerRun, Ticker
from r2vpo.envs.making import EnvSource, env_name, make_env


@dataclass(frozen=True)
class StableBaselines:
    """Where an algorithm is found, and how a comparison sets it up."""

    versions: ClassVar[str] = ">=2.4"

    package: str
    """What has to be installed, as it is imported."""
    class_name: str
    normalised: bool
    """Trained on normalised observations and rewards."""
    module: str | None = None
    """Home of the class; None is the package itself."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What differs from the defaults of the class."""

    def make(self, env: EnvSource, seed: int, num_envs: int = 1, **settings: Any) -> Any:
        """The model before training.

        Args:
            env: Environment id or factory.
            seed: Seed of the peer's own generators and of the environments.
            num_envs: Environments side by side, in one process.
            settings: Further arguments of its class.
        """
        from stable_baselines3.common.monitor import Monitor
        from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

        vec_env: Any = DummyVecEnv([lambda: Monitor(make_env(env))] * num_envs)
        if self.normalised:
            vec_env = VecNormalize(vec_env)
        algorithm = getattr(import_module(self.module or self.package), self.class_name)
        return algorithm("MlpPolicy", vec_env, seed=seed, device="cpu", **{**self.settings, **settings})

    def train(self, env: EnvSource, seed: int, total_steps: int, on_progress: OnProgress | None = None) -> PeerRun:
        """Train it; see :class:`r2vpo.control.experiments.peer_run.Peer`."""
        model = self.make(env, seed)
        vec_env, episodes = model.get_env(), EpisodeLog()
        started = time.perf_counter()
        model.learn(total_steps, callback=_recorder(episodes, Ticker(on_progress)))
        train_seconds = time.perf_counter() - started

        def act(deterministic: bool) -> BatchPolicy:
            def policy(observations: np.ndarray) -> np.ndarray:
                inputs = vec_env.normalize_obs(observations) if self.normalised else observations
                return model.predict(inputs, deterministic=deterministic)[0]

            return policy

        config = {"class": self.class_name, "env": env_name(env), "vec_normalize": self.normalised}
        return PeerRun(act, episodes, train_seconds, {**config, "defaults": not self.settings, **self.settings})


def _recorder(episodes: EpisodeLog, tick: Ticker) -> Any:
    from stable_baselines3.common.callbacks import BaseCallback

    class Recorder(BaseCallback):
        """Keeps finished episodes and reports progress."""

        def _on_step(self) -> bool:
            for info in self.locals["infos"]:
                if "episode" in info:
                    episodes.add(self.num_timesteps, info["episode"]["r"])
            tick(self.num_timesteps)
            return True

    return Recorder()
