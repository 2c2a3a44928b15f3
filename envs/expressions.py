"""Sums, differences and products with brackets, worked out a step at a time: a task that needs several steps in a row.

``"3*(8+2)-5-3="`` is answered ``"3*10-5-3=30-5-3=25-3=22"``: each step carries out the first operation that can be, and
copies the rest. Only the last number is verified. As in :mod:`r2vpo.envs.arithmetic`, every problem belongs to one
split for good, by a hash of its text.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from r2vpo.envs.arithmetic import SPLIT_PERCENT, Row, split_of
from r2vpo.errors import ConfigError

Expression = int | tuple[str, "Expression", "Expression"]
"""A number, or a sign with what stands left and right of it."""

LARGEST = 99
"""No step holds a larger number, or a negative one."""
DEFAULT_ROWS = {"test": 500, "validation": 500, "train": 10_000}
"""Rows of a split where no limit is given."""

_BINDING = {"+": 1, "-": 1, "*": 2}


@dataclass(frozen=True)
class ExpressionTask:
    """Expressions of so many numbers from 1 to 9.

    Raises:
        ConfigError: A value outside its range.
    """

    operands: int = 6
    """Numbers in an expression; it takes one step less to work out."""

    def __post_init__(self) -> None:
        """Check the field."""
        if not 4 <= self.operands <= 12:
            raise ConfigError("operands", self.operands, "from 4 (fewer are soon all used up) to 12")

    def rows(self, split: str, limit: int | None = None, seed: int = 0) -> list[Row]:
        """Different problems of a split: ``prompt``, ``answer``, and ``worked``, the steps that lead to it.

        Args:
            split: A name of :data:`SPLIT_PERCENT`.
            limit: Problems; None gives :data:`DEFAULT_ROWS`.
            seed: Of the training problems. The other splits are the same for every seed.

        Raises:
            ConfigError: No such split.
        """
        if split not in SPLIT_PERCENT:
            raise ConfigError("split", split, f"one of {', '.join(SPLIT_PERCENT)}")
        wanted = DEFAULT_ROWS[split] if limit is None else limit
        rows: dict[str, Row] = {}
        for row in self._stream(random.Random(seed if split == "train" else 0)):
            if len(rows) == wanted:
                break
            if split_of(row["prompt"]) == split:
                rows.setdefault(row["prompt"], row)
        return list(rows.values())

    def _stream(self, rng: random.Random) -> Iterator[Row]:
        while True:
            expression = _random(rng, self.operands)
            steps = list(worked_out(expression))
            if all(0 <= number <= LARGEST for step in steps for number in _numbers(step)):
                texts = [written(step) for step in steps]
                yield {"prompt": f"{written(expression)}=", "answer": texts[-1], "worked": "=".join(texts)}


def worked_out(expression: Expression) -> Iterator[Expression]:
    """What is left after each step, down to a number."""
    while not isinstance(expression, int):
        expression = _step(expression)
        yield expression


def written(expression: Expression) -> str:
    """The expression with the fewest brackets that keep its tree."""
    if isinstance(expression, int):
        return str(expression)
    sign, left, right = expression
    binding = _BINDING[sign]
    return f"{_bracketed(left, binding - 1)}{sign}{_bracketed(right, binding)}"


def _bracketed(part: Expression, above: int) -> str:
    return f"({written(part)})" if isinstance(part, tuple) and _BINDING[part[0]] <= above else written(part)


def _step(expression: Expression) -> Expression:
    """The first operation whose two sides are numbers, carried out."""
    if isinstance(expression, int):
        return expression
    sign, left, right = expression
    if isinstance(left, tuple):
        return sign, _step(left), right
    if isinstance(right, tuple):
        return sign, left, _step(right)
    return {"+": left + right, "-": left - right, "*": left * right}[sign]


def _random(rng: random.Random, operands: int) -> Expression:
    if operands == 1:
        return rng.randint(1, 9)
    left = rng.randint(1, operands - 1)
    return rng.choice("+-*"), _random(rng, left), _random(rng, operands - left)


def _numbers(expression: Expression) -> Iterator[int]:
    if isinstance(expression, int):
        yield expression
    else:
        yield from _numbers(expression[1])
        yield from _numbers(expression[2])


def expression_rows(split: str = "train", limit: int | None = None, seed: int = 0) -> list[Row]:
    """Rows of the built-in dataset ``expressions``: :meth:`ExpressionTask.rows` of the default task."""
    return ExpressionTask().rows(split, limit, seed)
