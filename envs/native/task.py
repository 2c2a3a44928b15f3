"""What a task adds to the physics, for N environments at once: observation, reward, termination."""

from __future__ import annotations

import functools
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
        self.dt: float = env.dt
        """Seconds of a step; Gymnasium works it out anew, slowly, at each use."""

    def before(self) -> np.ndarray | None:
        """What the reward compares with the state after the step, ``[N, ...]``: a copy, which the step leaves alone."""
        return None

    @abstractmethod
    def after(self, before: np.ndarray | None, actions: np.ndarray) -> Outcome:
        """Evaluate the step that has been taken with ``actions``, ``[N, A]``."""


def never(count: int) -> np.ndarray:
    """Terminated in none of N environments."""
    return np.zeros(count, dtype=bool)


def squared_sums(values: np.ndarray) -> np.ndarray:
    """Sum of the squares of each row: ``[N, ...]`` to ``[N]``."""
    squares = np.square(values)
    return np.add.reduce(squares if squares.ndim == 2 else flat(squares), axis=1)


def finite_rows(values: np.ndarray) -> np.ndarray:
    """Whether all of ``[N, K]`` in a row is finite, ``[N]``."""
    return np.logical_and.reduce(np.isfinite(values), axis=1)


def inside(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Whether values lie strictly between two limits, elementwise."""
    low, high = limits
    return (low < values) & (values < high)


def rows_inside(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Whether all of ``[N, K]`` in a row lies strictly between the limits ``[1, K]``, ``[N]``."""
    return np.logical_and.reduce((low < values) & (values < high), axis=1)


def clipped(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """What ``numpy.clip`` returns, for arrays so small that its Python is what costs."""
    return np.minimum(np.maximum(values, weak(low, values.dtype)), weak(high, values.dtype))


@functools.cache
def weak(number: float, dtype: np.dtype) -> np.ndarray:
    """A number as Python's float takes part in arithmetic with this type: rounded to it. An array converts no more."""
    return np.array(number, dtype=dtype)


def flat(values: np.ndarray) -> np.ndarray:
    """``[N, ...]`` to ``[N, K]``."""
    return values.reshape(len(values), -1)
