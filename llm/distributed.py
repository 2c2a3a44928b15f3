"""Data-parallel processes through accelerate.

Every process holds the weights and the buffer, and takes a share of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class AcceleratedProcesses:
    """Implements :class:`r2vpo.processes.Processes`: those that ``accelerate launch`` started, or a single one."""

    def __init__(self) -> None:
        from accelerate import PartialState

        # Where there is no GPU, accelerate looks for other processes only when told to use the CPU.
        self._state = PartialState(cpu=not torch.cuda.is_available())
        self.rank: int = self._state.process_index
        self.count: int = self._state.num_processes
        self.device: torch.device = self._state.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over the processes."""
        if self.count == 1:
            return values
        from accelerate.utils import reduce

        total: Tensor = reduce(values, reduction="sum")
        return total

    def concatenate(self, values: Tensor) -> Tensor:
        """Values of all processes, in the order of their ranks."""
        if self.count == 1:
            return values
        return torch.cat([torch.as_tensor(part) for part in self.gather([values.cpu().numpy()])])

    def gather(self, items: Sequence[T]) -> list[T]:
        """Python objects of all processes in one list, in the order of their ranks."""
        if self.count == 1:
            return list(items)
        from accelerate.utils import gather_object

        gathered: list[T] = gather_object(list(items))
        return gathered

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The contiguous part of ``items`` that is this process's."""
        start, end = (round(len(items) * k / self.count) for k in (self.rank, self.rank + 1))
        return items[start:end]
