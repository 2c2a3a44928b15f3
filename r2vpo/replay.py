"""Replay over iterations: the last few rollouts, drawn from uniformly (arXiv 2601.03320, Algorithm 2)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from r2vpo.errors import ConfigError

Iteration = dict[str, Tensor]
"""What one iteration collected, by name. The log-probs of the sampling policy are among it."""


def proximal_weights(log_prob: Tensor, old_log_prob: Tensor, cap: float = 1.0) -> Tensor:
    """Weights with which replayed samples enter an update whose ratio starts at 1 (decoupled, arXiv 2110.00641, Eq. 7).

    The ratio is taken from ``pi_prox``, the policy that the update starts from, and ``w = min(cap, pi_prox / pi_off)``
    multiplies the advantage: ``J = w A r - lambda (r - 1)^2`` with ``r = pi / pi_prox``. Penalties apart, objectives
    are homogeneous in the advantage, so none of them has to know. The penalty then holds the policy to where it is, not
    to where it was when the data was collected, and the age of a sample does not enter ``E[(r - 1)^2]``.

    Args:
        log_prob: Of the policy that the update starts from, any shape.
        old_log_prob: Of the policy that acted, same shape.
        cap: Largest weight, above 0.

    Returns:
        Weights, same shape.
    """
    return (log_prob - old_log_prob).clamp(max=math.log(cap)).exp()


class ReplayBuffer:
    """First-in-first-out store of whole iterations; samples are drawn uniformly over all of them.

    A sample is addressed by its position when the stored iterations are laid end to end, oldest first.

    Args:
        capacity_iterations: Number of iterations kept, at least 1. With 1 the data is always on-policy.

    Raises:
        ConfigError: ``capacity_iterations`` below 1.
    """

    def __init__(self, capacity_iterations: int = 4) -> None:
        if isinstance(capacity_iterations, bool) or not isinstance(capacity_iterations, int) or capacity_iterations < 1:
            raise ConfigError("buffer_iterations", capacity_iterations, "a whole number of at least 1")
        self.capacity_iterations = capacity_iterations
        self._iterations: deque[Iteration] = deque(maxlen=capacity_iterations)
        self._sizes: deque[int] = deque(maxlen=capacity_iterations)

    @property
    def iterations(self) -> tuple[Iteration, ...]:
        """Stored iterations, oldest first."""
        return tuple(self._iterations)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of samples in each stored iteration, oldest first."""
        return tuple(self._sizes)

    @property
    def fill(self) -> float:
        """How far past data has come in beside the newest: 0 with one iteration, 1 with all; 1 if no more are kept."""
        return 1.0 if self.capacity_iterations == 1 else (len(self._sizes) - 1) / (self.capacity_iterations - 1)

    def __len__(self) -> int:
        """Number of stored samples."""
        return sum(self._sizes)

    def add(self, iteration: Mapping[str, Tensor], num_samples: int) -> None:
        """Store one iteration, dropping the oldest when full.

        Args:
            iteration: Tensors of any shape; the caller knows how its samples lie in them.
            num_samples: Number of samples, at least 1.

        Raises:
            ValueError: ``num_samples`` below 1.
        """
        if num_samples < 1:
            raise ValueError(f"an iteration needs at least 1 sample, got num_samples={num_samples}")
        self._iterations.append(dict(iteration))
        self._sizes.append(num_samples)

    def ages(self) -> Tensor:
        """Age in iterations of every stored sample, int64 ``[len(self)]``; the newest have age 0."""
        newest_first = torch.arange(len(self._sizes) - 1, -1, -1)
        return newest_first.repeat_interleave(torch.tensor(self.sizes, dtype=torch.int64))

    def minibatches(self, batch_size: int, num_batches: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield ``num_batches`` tensors of ``batch_size`` sample positions (int64 ``[batch_size]``).

        Positions come from one shuffled pass over the whole buffer after another, so each sample is drawn
        equally often up to one; a minibatch may straddle two passes.

        Raises:
            ValueError: The buffer is empty.
        """
        if not len(self):
            raise ValueError("cannot draw minibatches from an empty replay buffer")
        needed = batch_size * num_batches
        if not needed:
            return
        passes = -(-needed // len(self))
        order = torch.cat([torch.randperm(len(self), generator=generator) for _ in range(passes)])
        yield from order[:needed].split(batch_size)

    def state_dict(self) -> dict[str, Any]:
        """Capacity and every stored iteration."""
        return {
            "capacity_iterations": self.capacity_iterations,
            "iterations": list(self._iterations),
            "sizes": list(self._sizes),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.__init__(state["capacity_iterations"])  # type: ignore[misc]
        for iteration, size in zip(state["iterations"], state["sizes"], strict=True):
            self.add(iteration, size)
