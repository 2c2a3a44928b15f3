"""Rows of the study of sample efficiency, and the settings that each of them is searched over. Needs no torch."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from r2vpo.llm.config import METHODS

Settings = dict[str, Any]

LEARNING_RATES = (2.5e-5, 5e-5, 1e-4, 2e-4)
PASSES = (1, 2, 4, 8, 16, 32)
"""Gradient samples per new sample: the UTD of a row with replay, the epochs of one without."""
FEWEST = len(LEARNING_RATES) * 3
"""Settings that a row with fixed passes has; no row is searched over more."""


@dataclass(frozen=True)
class Row:
    """A method of the study; every row is given equally many settings."""

    method: str
    """As ``--method`` takes it."""
    own: tuple[Settings, ...]
    """Three values of what the method has of its own: lambda, delta or a clip."""
    fixed: Settings = field(default_factory=dict)
    """Settings that make it this row."""

    @property
    def off_policy(self) -> bool:
        """Whether it replays."""
        return {**METHODS[self.method], **self.fixed}["algo"] == "off-policy"

    def settings(self, rate: float, passes: int | None, own: int) -> Settings:
        """Settings of a run; ``passes`` count where the row does not fix them."""
        several = {} if passes is None or self.passes_fixed else {self.passes_word: passes}
        return {"learning_rate": rate, **several, **self.own[own], **self.fixed}

    @property
    def passes_word(self) -> str:
        """The setting that says how often it passes over its data."""
        return "utd" if self.off_policy else "epochs"

    @property
    def passes_fixed(self) -> bool:
        """Whether its passes are part of what it is."""
        return not {"utd", "epochs"}.isdisjoint(self.fixed)


def _each(*variants: Settings) -> tuple[Settings, ...]:
    return tuple({"objective_kwargs": variant} for variant in variants)


_CLIPS = _each({"eps": 0.2}, {"eps": 0.1}, {"eps": 0.4})
_HIGHER = _each({"eps_high": 0.28}, {"eps_high": 0.4}, {"eps_low": 0.1})
_TEMPERATURES = _each({"tau_pos": 1.0}, {"tau_pos": 3.0, "tau_neg": 3.15}, {"tau_pos": 0.5, "tau_neg": 0.525})
_LAMBDAS = ({"lam": 0.5}, {"lam": 1.5}, {"lam": 2.5})
_REPLAY = {"algo": "off-policy"}

ROWS: dict[str, Row] = {
    "grpo": Row("grpo", _CLIPS, {"epochs": 1}),
    "grpo-epochs2": Row("grpo", _CLIPS, {"epochs": 2}),
    "grpo-epochs4": Row("grpo", _CLIPS, {"epochs": 4}),
    "grpo-replay": Row("grpo-replay", _CLIPS),
    "clip_higher-replay": Row("clip_higher", _HIGHER, _REPLAY),
    "dppo-replay": Row("dppo", _each({"delta": 0.15}, {"delta": 0.05}, {"delta": 0.3}), _REPLAY),
    "sapo-replay": Row("sapo", _TEMPERATURES, _REPLAY),
    "m2po": Row("m2po", _each({"tau": 0.04}, {"tau": 0.01}, {"tau": 0.1})),
    "spo-replay": Row("spo", _CLIPS, _REPLAY),
    "drpo-replay": Row("drpo", _each({"delta": 12.5}, {"delta": 1.0}, {"delta": 0.2}), _REPLAY),
    "r2vpo-on": Row("r2vpo-on", _LAMBDAS),
    "r2vpo-off-paper": Row(
        "r2vpo-off-paper", ({"lam": 0.04}, {"lam": 0.5}, {"dual": "adaptive", "delta": 0.05}), {"utd": 2.0}
    ),
    "r2vpo-off": Row("onesided", _LAMBDAS),
}
"""By name. Those with ``-replay`` are rivals under the buffer of R²VPO: what is left between them is the objective."""


def candidates(row: Row, count: int, seed: int = 0) -> list[Settings]:
    """Settings to search a row over: the same draw of rates and passes for all rows that leave both open.

    Each value occurs equally often, up to one.

    Args:
        row: A value of :data:`ROWS`.
        count: From 1 to :data:`FEWEST`.
        seed: Of the draw.
    """
    own = range(len(row.own))
    if row.passes_fixed:
        grid = [row.settings(rate, None, which) for rate, which in itertools.product(LEARNING_RATES, own)]
        return random.Random(seed).sample(grid, count)
    return [row.settings(*point) for point in _balanced((LEARNING_RATES, PASSES, tuple(own)), count, seed)]


def _balanced(factors: Sequence[Sequence[Any]], count: int, seed: int) -> list[tuple[Any, ...]]:
    """Different points of a grid in which the values of each factor occur equally often, up to one."""
    rng = random.Random(seed)
    while True:
        columns = [(list(values) * (count // len(values) + 1))[:count] for values in factors]
        for column in columns:
            rng.shuffle(column)
        points = list(zip(*columns, strict=True))
        if len(set(points)) == count:
            return points
