"""What a comparison asks of another library's algorithm, and what it gets back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from r2vpo.control.evaluation import BatchPolicy, EpisodeLog
from r2vpo.envs.making import EnvSource

OnProgress = Callable[[int], None]
"""Called with the number of environment steps done."""


@dataclass
class PeerRun:
    """A trained peer: how it acts, how it learned, and how long that took."""

    act: Callable[[bool], BatchPolicy]
    """``act(deterministic)`` is a policy on raw observations."""
    episodes: EpisodeLog
    train_seconds: float
    config: dict[str, Any]


class Peer(Protocol):
    """Another library's algorithm, as a comparison sets it up."""

    @property
    def package(self) -> str:
        """What has to be installed, as it is imported."""
        ...

    @property
    def versions(self) -> str:
        """Those that will do, as a version specifier."""
        ...

    def train(self, env: EnvSource, seed: int, total_steps: int, on_progress: OnProgress | None = None) -> PeerRun:
        """Train it.

        Args:
            env: Environment id or factory.
            seed: Seed of the peer's own generators and of the environments.
            total_steps: Environment steps; on-policy peers round up to whole rollouts.
            on_progress: Called with the number of environment steps done, about once a second.
        """
        ...


class Ticker:
    """Passes steps on about once a second."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress, self._last = on_progress, 0.0

    def __call__(self, steps: int) -> None:
        """Report ``steps``, unless something was reported within the last second."""
        if self._on_progress is not None and time.monotonic() - self._last > 1.0:
            self._last = time.monotonic()
            self._on_progress(steps)
