"""What no algorithm can learn from, reported with the environment it came from."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from r2vpo.errors import EnvironmentFailure


def raised_in(name: str, index: int, num_envs: int, method: str, error: Exception) -> EnvironmentFailure:
    """The failure to raise when one of N environments raised an error of its own."""
    return EnvironmentFailure(f"environment {index} of {num_envs} ({name}) raised in {method}: {error!r}")


def all_finite(values: np.ndarray) -> bool:
    """Whether no value is infinite or NaN; for small arrays, in a third of the time of a mask and its reduction."""
    # Zero times what is not finite is not zero.
    return bool(np.vdot(values, _zeros(values.size)) == 0.0)


def require_finite(name: str, num_envs: int, what: str, values: np.ndarray, first: int = 0) -> None:
    """Raise EnvironmentFailure, naming the first environment at fault, unless every value is finite.

    Args:
        name: Of the task.
        num_envs: N.
        what: Name of the values in the message.
        values: ``[n, ...]``, a row for each environment from ``first`` on.
        first: Index of the environment of the first row.
    """
    if all_finite(values):
        return
    index = int(np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0])
    raise EnvironmentFailure(
        f"environment {first + index} of {num_envs} ({name}) returned a {what} that is not finite: {values[index]}"
    )


def saved_environments(state: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """The states of the single environments in one that ``VectorEnv`` or ``NativeVectorEnv`` saved.

    Raises:
        ValueError: Another engine saved it, or there are not ``num_envs`` of them.
    """
    if "envs" not in state:
        raise ValueError("the state was saved by another engine, which keeps no environments")
    if len(state["envs"]) != num_envs:
        raise ValueError(f"{len(state['envs'])} environments were saved, there are {num_envs}")
    return list(state["envs"])


@functools.lru_cache(maxsize=16)
def _zeros(size: int) -> np.ndarray:
    return np.zeros(size)
