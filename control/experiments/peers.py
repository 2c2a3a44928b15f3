"""Other people's trainers behind one function, for comparisons under one protocol.

Stable-Baselines3 and sb3-contrib at their own defaults, our adapter (:mod:`r2vpo.control.sb3`) at those of its PPO, and
Tianshou's PPO under its authors' recipe.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet

from r2vpo.control.experiments.peer_run import OnProgress, Peer, PeerRun
from r2vpo.control.experiments.stable_baselines import StableBaselines
from r2vpo.control.experiments.tianshou import TianshouPPO
from r2vpo.envs.making import EnvSource
from r2vpo.errors import ConfigError

_ADAPTER = ("stable_baselines3", "R2VPO", True, "r2vpo.control.sb3")

SB3_PPO = StableBaselines("stable_baselines3", "PPO", True)

PEERS: dict[str, Peer] = {
    "sb3-ppo": SB3_PPO,
    "sb3-trpo": StableBaselines("sb3_contrib", "TRPO", True),
    "sb3-sac": StableBaselines("stable_baselines3", "SAC", False),
    "sb3-td3": StableBaselines("stable_baselines3", "TD3", False),
    "r2vpo-sb3": StableBaselines(*_ADAPTER),
    "r2vpo-sb3-off": StableBaselines(*_ADAPTER, {"buffer_iterations": 4}),
    "tianshou-ppo": TianshouPPO(),
}
"""By name on the command line."""


def train_peer(
    name: str, env: EnvSource, seed: int, total_steps: int, on_progress: OnProgress | None = None
) -> PeerRun:
    """Train one peer on one environment with one torch thread's worth of settings left to the caller.

    Args:
        name: A key of :data:`PEERS`.
        env: Environment id or factory.
        seed: Seed of the peer's own generators and of the environments.
        total_steps: Environment steps; on-policy peers round up to whole rollouts.
        on_progress: Called with the number of environment steps done, about once a second.

    Raises:
        ConfigError: Unknown name, or its package is not installed.
    """
    require_installed(name)
    return PEERS[name].train(env, seed, total_steps, on_progress)


def require_installed(name: str) -> None:
    """Raise ConfigError unless ``name`` is a peer whose package is installed and fits; imports nothing heavy."""
    if name not in PEERS:
        raise ConfigError("algo", name, f"one of {', '.join(PEERS)}")
    package, versions = PEERS[name].package.replace("_", "-"), PEERS[name].versions
    try:
        installed = version(package)
    except PackageNotFoundError:
        raise ConfigError("algo", name, f"installed; run pip install {package}") from None
    if not SpecifierSet(versions).contains(installed, prereleases=True):
        raise ConfigError("algo", name, f"one for {package} {installed}; it needs {package}{versions}")
