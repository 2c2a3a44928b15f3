"""What a task adds to the physics, for N environments at once: observation, reward, termination."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from r2vpo.envs.native.simulations import Simulations

Outcome = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Observations ``[N, D]``, rewards ``[N]`` and terminated ``[N]``."""


class Task(ABC):
    """Base of the tasks. Each one is its Gymnasium class, read line by line, with a leading axis for N.

    Weights and ranges are looked up in Gymnasium's environment, so none is written down here. Sums and products keep
    Gymnasium's order and types, because results are compared bit for bit; ``actions`` stay float32 when they are.

    Args:
        env: Gymnasium's environment without its wrappers.
        simulations: Where the physics happens.
    """

    reads_contact_forces: ClassVar[bool] = False
    """Whether ``cfrc_ext`` is needed."""
    required: ClassVar[tuple[str, ...]] = ()
    """Switches of the Gymnasium class that have to be on, as they are by default."""

    def __init__(self, env: Any, simulations: Simulations) -> None:
        self.env = env
        self.simulations = simulations
        self.read = simulations.read

    def before(self) -> np.ndarray | None:
        """What the reward compares with the state after the step, ``[N, ...]``."""
        return None

    @abstractmethod
    def after(self, before: np.ndarray | None, actions: np.ndarray) -> Outcome:
        """Evaluate the step that has been taken with ``actions``, ``[N, A]``."""


def never(count: int) -> np.ndarray:
    """Terminated in none of N environments."""
    return np.zeros(count, dtype=bool)


def squared_sums(values: np.ndarray) -> np.ndarray:
    """Sum of the squares of each row: ``[N, ...]`` to ``[N]``."""
    return np.square(values).reshape(len(values), -1).sum(axis=1)


def inside(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Whether values lie strictly between two limits, elementwise."""
    low, high = limits
    return (low < values) & (values < high)


def flat(values: np.ndarray) -> np.ndarray:
    """``[N, ...]`` to ``[N, K]``."""
    return values.reshape(len(values), -1)
