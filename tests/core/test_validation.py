"""Settings are checked against their annotations, and the error says what is allowed."""

import json
import math
from dataclasses import dataclass
from fractions import Fraction as Fraction_
from typing import Annotated, ClassVar, Literal

import numpy as np
import pytest
from annotated_types import Ge, Interval, MinLen

from r2vpo.errors import ConfigError
from r2vpo.validation import (
    Count,
    Fraction,
    NonNegative,
    ObjectiveKwargs,
    Positive,
    Whole,
    check_dual,
    check_fields,
    check_names,
    upgraded,
)


@dataclass
class Settings:
    count: Count = 1
    whole: Whole = 0
    pair: Annotated[int, Ge(2)] = 2
    positive: Positive = 0.5
    optional: Positive | None = None
    lam: NonNegative = 0.0
    share: Fraction = 1.0
    open: Annotated[float, Interval(gt=0, le=1)] = 1
    any_number: float = -3
    flag: bool = False
    name: str = "x"
    kind: Literal["a", "b"] = "a"
    sizes: Annotated[tuple[Count, ...], MinLen(1)] = (64,)
    words: tuple[str, ...] = ()
    kwargs: ObjectiveKwargs | None = None
    either: Count | None = None

    ELSEWHERE: ClassVar[dict[str, str]] = {"n_count": "it is count here"}


@pytest.mark.parametrize(
    ("field", "values", "allowed"),
    [
        ("count", (0, -1, 1.5, True, "1", None, math.inf), "a whole number of at least 1"),
        ("whole", (-1, 0.5, False), "a whole number of at least 0"),
        ("pair", (1,), "a whole number of at least 2"),
        ("positive", (0, -1.0, math.inf, math.nan, True, None), "a finite number above 0"),
        ("optional", (0, "1"), "a finite number above 0, or None"),
        ("lam", (-1e-9,), "a finite number of at least 0"),
        ("share", (1.5, -0.1), "a finite number of at least 0 and at most 1"),
        ("open", (0, 1.01), "a finite number above 0 and at most 1"),
        ("any_number", (math.nan, "3"), "a finite number"),
        ("flag", (0, 1, "yes", None), "True or False"),
        ("name", (3, None), "a text"),
        ("kind", ("c", None, 0), "one of a, b"),
        ("sizes", ((), (0,), 64, [64.5], None), "a non-empty sequence, each entry a whole number of at least 1"),
        ("words", ("x", (1,)), "a sequence, each entry a text"),
        ("kwargs", ([1], {1: 2}), "a mapping from names to values, or None"),
    ],
)
def test_what_an_annotation_leaves_out_is_refused_with_its_range(field, values, allowed):
    for value in values:
        with pytest.raises(ConfigError) as caught:
            check_fields(Settings(**{field: value}), Settings)
        assert (caught.value.field, caught.value.allowed) == (field, allowed)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("positive", 1),
        ("optional", 2.5),
        ("any_number", -1e300),
        ("sizes", [8, 8]),
        ("kwargs", {"eps": 0.1}),
        ("share", 0),
    ],
)
def test_what_an_annotation_allows_passes(field, value):
    check_fields(Settings(**{field: value}), Settings)


@pytest.mark.parametrize(
    ("field", "value", "plain"),
    [
        ("count", np.int64(2), 2),
        ("count", 1e3, 1000),
        ("count", np.float32(8), 8),
        ("whole", np.uint8(0), 0),
        ("positive", np.float64(0.25), 0.25),
        ("positive", Fraction_(1, 4), 0.25),
        ("positive", np.int32(3), 3),
        ("optional", np.float32(0.5), 0.5),
        ("flag", np.bool_(True), True),
        ("sizes", np.array([64, 32]), (64, 32)),
        ("sizes", [np.int64(8), 8.0], (8, 8)),
        ("kwargs", {"eps": np.float64(0.5)}, {"eps": 0.5}),
        ("either", np.int64(3), 3),
        ("either", 2.0, 2),
    ],
)
def test_numbers_of_any_library_become_pythons(field, value, plain):
    settings = Settings(**{field: value})
    check_fields(settings, Settings)
    held = getattr(settings, field)
    assert (held, json.dumps(held)) == (plain, json.dumps(plain))
    assert type(held) is type(plain)


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"envs=4 .* The settings are count, whole"):
        check_names(Settings, {"count": 1, "envs": 4})
    with pytest.raises(ConfigError, match=r"postive=4 .* did you mean positive"):
        check_names(Settings, {"postive": 4})
    with pytest.raises(ConfigError, match=r"n_count=4 is not allowed: n_count must be left out: it is count here"):
        check_names(Settings, {"n_count": 4})


@pytest.mark.parametrize(
    ("dual", "lam", "delta", "field"),
    [("paper", 1.0, None, "delta"), ("adaptive", 1.0, None, "delta"), ("adaptive", 0, 0.1, "lam")],
)
def test_a_dual_rule_that_moves_needs_somewhere_to_go(dual, lam, delta, field):
    @dataclass
    class Dual:
        dual: str
        lam: float
        delta: float | None

    with pytest.raises(ConfigError) as caught:
        check_dual(Dual(dual, lam, delta))
    assert caught.value.field == field
    check_dual(Dual("fixed", 0, None))


def test_settings_of_earlier_versions_come_under_todays_names():
    former = {"lam": 1.0, "eps": None, "eps_low": 0.1, "cap": None, "level": None, "top_p": 1.0, "lr_end": 0.0}
    assert upgraded(former) == {"lam": 1.0, "objective_kwargs": {"eps_low": 0.1}}
    assert upgraded({"objective_kwargs": {"eps": 0.3}}) == {"objective_kwargs": {"eps": 0.3}}
    assert upgraded({"top_p": 0.9, "lr_end": 0.5}) == {"top_p": 0.9, "lr_end": 0.5}
