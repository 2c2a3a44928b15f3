"""How the processes that share one minibatch agree on its sums."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
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


class TorchProcesses:
    """Implements :class:`Processes` on a process group that exists already.

    Args:
        device: Where the group's backend exchanges tensors: ``"cpu"`` for gloo, this process's GPU for NCCL. Tensors
            that live elsewhere travel through it and come back to where they were.
        group: The group; None is the default one.

    Raises:
        RuntimeError: There is no process group.
    """

    def __init__(self, device: torch.device | str = "cpu", group: torch.distributed.ProcessGroup | None = None) -> None:
        if not torch.distributed.is_initialized():
            raise RuntimeError("torch.distributed.init_process_group must have been called before")
        self.device = torch.device(device)
        self.group = group
        self.rank: int = torch.distributed.get_rank(group)
        self.count: int = torch.distributed.get_world_size(group)

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over the processes, in a new tensor; ``values`` keep what they hold."""
        total = values.detach().to(self.device, copy=True).contiguous()
        torch.distributed.all_reduce(total, group=self.group)
        return total.to(values.device)

    def concatenate(self, values: Tensor) -> Tensor:
        """Values of all processes end to end in the order of their ranks; ``[n]`` may differ between them."""
        sizes = self._sizes(len(values))
        # One dtype everywhere, because a process that has nothing does not know that of the others.
        padded = torch.zeros(max(sizes), dtype=torch.float64, device=self.device)
        padded[: len(values)] = values.detach().to(padded)
        parts = [torch.empty_like(padded) for _ in sizes]
        torch.distributed.all_gather(parts, padded, group=self.group)
        joined = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
        return joined.to(values)

    def _sizes(self, own: int) -> list[int]:
        size = torch.tensor([own], device=self.device)
        sizes = [torch.empty_like(size) for _ in range(self.count)]
        torch.distributed.all_gather(sizes, size, group=self.group)
        return [int(other) for other in sizes]


def usable_cores() -> int:
    """Cores that this process may use, where the system says it; else those that the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_mib(with_child: bool = False) -> float:
    """Largest resident set so far of this process, and added to it that of its largest ended child, MiB.

    NaN where the system does not count it, as on Windows. On Linux a child starts at the size that its parent had:
    measure in children of a process that stays small.
    """
    try:
        import resource
    except ImportError:
        return float("nan")
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN) if with_child else (resource.RUSAGE_SELF,)
    # In bytes on macOS, in kilobytes elsewhere.
    return sum(resource.getrusage(one).ru_maxrss for one in who) / (2**20 if sys.platform == "darwin" else 2**10)


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let torch use this many threads inside; 0 leaves them as they are."""
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
