"""What the core asks of a policy. Gaussian and token policies implement it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn


class Policy(nn.Module, ABC):
    """A distribution over actions that can score actions taken earlier.

    A *batch* is a mapping of tensors whose meaning the backend defines. What is scored is what was sampled: for
    bounded actions the value before clipping or squashing, for tokens the distribution at the sampling temperature.
    """

    @abstractmethod
    def log_prob(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Log-probability (density, for continuous actions) of the batch's actions, ``[N]`` or ``[B, T]``."""

    @abstractmethod
    def entropy(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Entropy in nats of the action distribution at each element, same shape as :meth:`log_prob`."""
