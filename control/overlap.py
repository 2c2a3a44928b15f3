"""Collecting the next rollout while the learner works on the last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from r2vpo.control.collector import FinishedEpisode
from r2vpo.control.collector_process import Collected, CollectorProcess, CollectorSpec
from r2vpo.control.gaussian import GaussianPolicy
from r2vpo.errors import EnvironmentFailure


class OverlappedCollector:
    """A collector that works ahead: what it hands out was collected by the policy of one update ago.

    The policy is sent when a rollout begins, and the action noise comes from a generator of its own, so that the
    outcome does not depend on which of the two, collecting or learning, is faster. The stored log-probs are those of
    the policy that acted: the ratio knows about the staleness.

    Args:
        spec: Environments and how to act in them.
        policy: The learner's; only read, and only between updates.
    """

    def __init__(self, spec: CollectorSpec, policy: GaussianPolicy) -> None:
        self.policy = policy
        self._process = CollectorProcess(spec)
        self.engine = f"{self._process.engine}: {self._process.engine_reason}; collecting ahead"
        self._under_way = False
        self._ahead: Collected | EnvironmentFailure | None = None

    def reset(self, seed: int) -> None:
        """Start a new episode in every environment; what was collected ahead is dropped."""
        self._finish()
        self._ahead = None
        self._process.send("reset", seed)
        self._process.receive()

    def collect(self, steps: int, on_step: Callable[[], None] | None = None) -> Collected:
        """Hand out the rollout that was begun at the last call, and begin the next with the policy of now.

        Args:
            steps: T, the same at each call.
            on_step: Called T times when the rollout is handed out: between two updates.

        Raises:
            EnvironmentFailure: As :meth:`Collector.collect`, for the rollout that would be handed out.
        """
        if self._ahead is None and not self._under_way:
            self._begin(steps)
        collected = self._finish()
        assert collected is not None
        if isinstance(collected, EnvironmentFailure):
            raise collected
        self._begin(steps)
        if on_step is not None:
            for _ in range(steps):
                on_step()
        return collected

    def state_dict(self) -> dict[str, Any] | None:
        """Waits for the rollout under way, which is part of the state.

        Returns:
            None when an environment has failed in it: the next :meth:`collect` says how.
        """
        ahead = self._finish()
        if isinstance(ahead, EnvironmentFailure):
            return None
        self._process.send("state_dict")
        state: dict[str, Any] = self._process.receive()
        if ahead is not None:
            rollout, finished = ahead
            state["ahead"] = {"rollout": rollout, "finished": [asdict(episode) for episode in finished]}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> list[str]:
        """Restore what :meth:`state_dict` returned; returns what the environments could not restore."""
        self._finish()
        self._ahead = None
        if "ahead" in state:
            finished = [FinishedEpisode(**episode) for episode in state["ahead"]["finished"]]
            self._ahead = state["ahead"]["rollout"], finished
        self._process.send("load_state_dict", {name: state[name] for name in ("collector", "noise")})
        unknown: list[str] = self._process.receive()
        return unknown

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def _begin(self, steps: int) -> None:
        weights = {name: value.numpy() for name, value in self.policy.state_dict().items()}
        self._process.send("collect", weights, steps)
        self._under_way, self._ahead = True, None

    def _finish(self) -> Collected | EnvironmentFailure | None:
        """Wait for the rollout under way; the rollout that is ahead, or why there is none."""
        if self._under_way:
            self._under_way = False
            try:
                arrays, finished = self._process.receive()
                self._ahead = {name: torch.from_numpy(values) for name, values in arrays.items()}, finished
            except EnvironmentFailure as failure:
                self._ahead = failure
        return self._ahead


def noise_seed(seed: int) -> int:
    """Of the action noise: a stream apart from the learner's, which has drawn from the plain seed."""
    return int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
