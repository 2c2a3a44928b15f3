"""DAPO's shaping of rewards by length."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def overlong_penalty(lengths: NDArray[np.integer], max_tokens: int, width: int) -> NDArray[np.float64]:
    """Soft punishment of long answers (DAPO, arXiv 2503.14476, Eq. 13).

    0 up to ``max_tokens - width`` tokens, from there linearly down to -1 at ``max_tokens``. A width of 0 punishes
    nothing.

    Args:
        lengths: Tokens of each completion, ``[B]``.
        max_tokens: Where completions are cut.
        width: Tokens over which the punishment grows.

    Returns:
        What is added to the rewards, ``[B]``.
    """
    if width == 0:
        return np.zeros(len(lengths))
    return np.clip((max_tokens - width - lengths) / width, -1.0, 0.0)
