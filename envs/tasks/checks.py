"""What our tasks share: the types and checks of their arguments, and the type of a step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2vpo.errors import ConfigError

Range = tuple[float, float]
"""Lowest and highest value, both included."""

Step = tuple[NDArray[np.float64], Any, bool, bool, dict[str, Any]]
"""What ``step`` returns; rewards are floats, where Gymnasium's types say NumPy's."""


def require_positive(field: str, value: float) -> None:
    """Check that a number is finite and above 0.

    Raises:
        ConfigError: It is not.
    """
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(field, value, "a finite number above 0")


def require_range(field: str, value: Range) -> None:
    """Check that a range has two finite ends in order, the lower one above 0.

    Raises:
        ConfigError: It has not.
    """
    if not (len(value) == 2 and all(map(math.isfinite, value)) and 0 < value[0] <= value[1]):
        raise ConfigError(field, value, "two finite numbers (low, high) with 0 < low <= high")


def require_step_range(field: str, value: tuple[int, int]) -> None:
    """Check that a range of step counts is a range of whole numbers.

    Raises:
        ConfigError: It is not.
    """
    require_range(field, value)
    if any(number != int(number) for number in value):
        raise ConfigError(field, value, "two whole numbers of steps")
