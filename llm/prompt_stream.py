"""Training problems in shuffled passes, resumable at any point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Problem:
    """A row of the dataset with its tokens."""

    row: dict[str, Any]
    tokens: tuple[int, ...]
    """Prompt, without padding."""


class PromptStream:
    """Deals problems in the order of one shuffled pass after another; the order depends on seed and pass alone.

    Args:
        problems: At least one.
        seed: Of the shuffles.
    """

    def __init__(self, problems: Sequence[Problem], seed: int) -> None:
        self.problems, self.seed = problems, seed
        self.dealt = 0
        self._pass = -1
        self._order: list[int] = []

    def take(self, count: int) -> list[Problem]:
        """The next ``count`` problems."""
        taken = []
        for _ in range(count):
            which, place = divmod(self.dealt, len(self.problems))
            if which != self._pass:
                self._pass = which
                self._order = np.random.default_rng([self.seed, which]).permutation(len(self.problems)).tolist()
            taken.append(self.problems[self._order[place]])
            self.dealt += 1
        return taken
