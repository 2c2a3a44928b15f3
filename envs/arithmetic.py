"""Sums of one-digit numbers, ``"3+5+9+2="`` -> ``"19"``: a task with a verifiable answer that needs no download.

Every problem belongs to one split for good, by a hash of its text: the test problems are the same for every seed and
never occur in training.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from r2vpo.errors import ConfigError

Row = dict[str, str]

SPLIT_PERCENT = {"test": 10, "validation": 5, "train": 85}
"""Share of each split. Warm starts watch the validation problems, so that the test problems stay unseen."""

MOST_PROBLEMS = 10_000_000
"""Largest task: its problems are put in order as a whole."""


@dataclass(frozen=True)
class ArithmeticTask:
    """All sums of so many numbers from 0 to ``highest``.

    Raises:
        ConfigError: A value outside its range.
    """

    operands: int = 4
    """Numbers in a sum."""
    highest: int = 9
    """Largest of them."""

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.operands < 2:
            raise ConfigError("operands", self.operands, "at least 2")
        if self.highest < 1:
            raise ConfigError("highest", self.highest, "at least 1")
        if (self.highest + 1) ** self.operands > MOST_PROBLEMS:
            raise ConfigError(
                "operands", self.operands, f"so small that (highest + 1) ** operands <= {MOST_PROBLEMS:,}"
            )

    def __len__(self) -> int:
        """Number of problems in all splits together."""
        return (self.highest + 1) ** self.operands

    def problem(self, number: int) -> Row:
        """Problem ``number`` of ``len(self)``: ``prompt`` and ``answer``."""
        numbers = []
        for _ in range(self.operands):
            number, digit = divmod(number, self.highest + 1)
            numbers.append(digit)
        return {"prompt": "+".join(map(str, numbers)) + "=", "answer": str(sum(numbers))}

    def rows(self, split: str, limit: int | None = None, seed: int = 0) -> list[Row]:
        """Problems of a split in random order, each once.

        Args:
            split: A name of :data:`SPLIT_PERCENT`.
            limit: Most problems; None gives all of the split.
            seed: Of the order of the training problems. The other splits have one fixed order.

        Raises:
            ConfigError: No such split.
        """
        if split not in SPLIT_PERCENT:
            raise ConfigError("split", split, f"one of {', '.join(SPLIT_PERCENT)}")
        order = list(range(len(self)))
        random.Random(seed if split == "train" else 0).shuffle(order)
        rows: list[Row] = []
        for number in order:
            if len(rows) == limit:
                break
            row = self.problem(number)
            if split_of(row["prompt"]) == split:
                rows.append(row)
        return rows


def split_of(prompt: str) -> str:
    """The split a problem belongs to, from the SHA-256 of its text."""
    percent = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big") % 100
    for split, share in SPLIT_PERCENT.items():
        percent -= share
        if percent < 0:
            return split
    raise AssertionError("the shares add up to 100")


def arithmetic_rows(split: str = "train", limit: int | None = None, seed: int = 0) -> list[Row]:
    """Rows of the built-in dataset ``arithmetic``: :meth:`ArithmeticTask.rows` of the default task."""
    return ArithmeticTask().rows(split, limit, seed)
