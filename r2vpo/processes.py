"""How the processes that share one minibatch agree on its sums."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Processes(Protocol):
    """The processes of one data-parallel run; every method is called by all of them, in the same order."""

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over the processes; same shape everywhere."""
        ...

    def concatenate(self, values: Tensor) -> Tensor:
        """Values of all processes end to end in the order of their ranks; ``[n]`` may differ between them."""
        ...


class SingleProcess:
    """Nobody to agree with."""

    def sum(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values

    def concatenate(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values
