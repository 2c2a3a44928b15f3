"""Micro-batches under a token budget, with little padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SMALL_SHARE = 0.25
"""A batch that fills this much of the budget may end early, where the sequences get much shorter."""
MUCH_SHORTER = 0.8
"""Relative to the longest of the batch."""


def token_micro_batches(lengths: Sequence[int] | NDArray[np.integer], budget: int) -> list[NDArray[np.int64]]:
    """Cut sequences into batches whose padded size stays within a budget.

    Sequences of like length share a batch, so that padding is small; longest first, so that a run that lacks memory
    finds out at once. A sequence longer than the budget gets a batch to itself.

    Args:
        lengths: Tokens of each sequence, ``[n]``.
        budget: Most tokens per batch, padding included.

    Returns:
        Indices into ``lengths``, each exactly once.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    batches: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        end = start + max(1, budget // longest)
        enough = start + max(1, round(SMALL_SHARE * budget) // longest)
        shorter = np.flatnonzero(lengths[order[enough:end]] < MUCH_SHORTER * longest)
        if len(shorter):
            end = enough + int(shorter[0])
        batches.append(order[start:end])
        start = end
    return batches


def padding_fraction(lengths: Sequence[int] | NDArray[np.integer], batches: Sequence[NDArray[np.int64]]) -> float:
    """Share of the padded batches that is padding."""
    lengths = np.asarray(lengths)
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    return 1.0 - float(lengths.sum()) / padded if padded else 0.0
