"""What no algorithm can learn from, reported with the environment it came from."""

from __future__ import annotations

import numpy as np

from r2vpo.errors import EnvironmentFailure


def raised_in(name: str, index: int, num_envs: int, method: str, error: Exception) -> EnvironmentFailure:
    """The failure to raise when one of N environments raised an error of its own."""
    return EnvironmentFailure(f"environment {index} of {num_envs} ({name}) raised in {method}: {error!r}")


def require_finite(name: str, num_envs: int, what: str, values: np.ndarray, first: int = 0) -> None:
    """Raise EnvironmentFailure, naming the first environment at fault, unless every value is finite.

    Args:
        name: Of the task.
        num_envs: N.
        what: Name of the values in the message.
        values: ``[n, ...]``, a row for each environment from ``first`` on.
        first: Index of the environment of the first row.
    """
    if np.isfinite(values).all():
        return
    index = int(np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0])
    raise EnvironmentFailure(
        f"environment {first + index} of {num_envs} ({name}) returned a {what} that is not finite: {values[index]}"
    )
