"""Other people's trainers behind one function, for comparisons under one protocol.

Stable-Baselines3 (https://github.com/DLR-RM/stable-baselines3) and sb3-contrib at their own defaults, and our
adapter (:mod:`r2vpo.control.sb3`) at those of its PPO. The on-policy ones train on normalised observations and
rewards (``VecNormalize``), as in their authors' tuned settings for MuJoCo and as our own trainer does; the statistics
are frozen for evaluation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from r2vpo.control.evaluation import BatchPolicy, EpisodeLog
from r2vpo.envs.making import EnvSource, env_name, make_env
from r2vpo.errors import ConfigError


@dataclass(frozen=True)
class Peer:
    """Where an algorithm is found, and how a comparison sets it up."""

    package: str
    """What has to be installed."""
    class_name: str
    normalised: bool
    """Trained on normalised observations and rewards."""
    module: str | None = None
    """Home of the class; None is the package itself."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What differs from the defaults of the class."""


_ADAPTER = ("stable_baselines3", "R2VPO", True, "r2vpo.control.sb3")

PEERS = {
    "sb3-ppo": Peer("stable_baselines3", "PPO", True),
    "sb3-trpo": Peer("sb3_contrib", "TRPO", True),
    "sb3-sac": Peer("stable_baselines3", "SAC", False),
    "sb3-td3": Peer("stable_baselines3", "TD3", False),
    "r2vpo-sb3": Peer(*_ADAPTER),
    "r2vpo-sb3-off": Peer(*_ADAPTER, {"buffer_iterations": 4}),
}
"""By name on the command line."""


@dataclass
class PeerRun:
    """A trained peer: how it acts, how it learned, and how long that took."""

    act: Callable[[bool], BatchPolicy]
    """``act(deterministic)`` is a policy on raw observations."""
    episodes: EpisodeLog
    train_seconds: float
    config: dict[str, Any]


def train_peer(
    name: str, env: EnvSource, seed: int, total_steps: int, on_progress: Callable[[int], None] | None = None
) -> PeerRun:
    """Train one peer on one environment with one torch thread's worth of settings left to the caller.

    Args:
        name: A key of :data:`PEERS`.
        env: Environment id or factory.
        seed: Seed of the peer's own generators and of the environment.
        total_steps: Environment steps; on-policy peers round up to whole rollouts.
        on_progress: Called with the number of environment steps done, about once a second.

    Raises:
        ConfigError: Unknown name, or its package is not installed.
    """
    model = make_peer(name, env, seed)
    peer, vec_env = PEERS[name], model.get_env()
    from stable_baselines3.common.callbacks import BaseCallback

    episodes = EpisodeLog()

    class Recorder(BaseCallback):
        """Keeps finished episodes and reports progress."""

        last_report = 0.0

        def _on_step(self) -> bool:
            for info in self.locals["infos"]:
                if "episode" in info:
                    episodes.add(self.num_timesteps, info["episode"]["r"])
            if on_progress is not None and time.monotonic() - self.last_report > 1.0:
                self.last_report = time.monotonic()
                on_progress(self.num_timesteps)
            return True

    started = time.perf_counter()
    model.learn(total_steps, callback=Recorder())
    train_seconds = time.perf_counter() - started

    def act(deterministic: bool) -> BatchPolicy:
        def policy(observations: np.ndarray) -> np.ndarray:
            inputs = vec_env.normalize_obs(observations) if peer.normalised else observations
            return model.predict(inputs, deterministic=deterministic)[0]

        return policy

    config = {"class": type(model).__name__, "env": env_name(env), "vec_normalize": peer.normalised}
    return PeerRun(act, episodes, train_seconds, {**config, "defaults": not peer.settings, **peer.settings})


def make_peer(name: str, env: EnvSource, seed: int, num_envs: int = 1, **settings: Any) -> Any:
    """A peer's model at its own defaults, before training.

    Args:
        name: A key of :data:`PEERS`.
        env: Environment id or factory.
        seed: Seed of the peer's own generators and of the environments.
        num_envs: Environments side by side, in one process.
        settings: Further arguments of its class.

    Raises:
        ConfigError: Unknown name, or its package is not installed.
    """
    algorithm, peer = _load(name), PEERS[name]
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    vec_env: Any = DummyVecEnv([lambda: Monitor(make_env(env))] * num_envs)
    if peer.normalised:
        vec_env = VecNormalize(vec_env)
    return algorithm("MlpPolicy", vec_env, seed=seed, device="cpu", **{**peer.settings, **settings})


def require_installed(name: str) -> None:
    """Raise ConfigError unless ``name`` is a peer whose package is installed; imports nothing heavy."""
    if name not in PEERS:
        raise ConfigError("algo", name, f"one of {', '.join(PEERS)}")
    package = PEERS[name].package
    if find_spec(package) is None:
        raise ConfigError("algo", name, f"installed; run pip install {package.replace('_', '-')}")


def _load(name: str) -> Any:
    require_installed(name)
    peer = PEERS[name]
    return getattr(import_module(peer.module or peer.package), peer.class_name)
