"""Settings checked against their own annotations before any work starts. Needs no torch."""

from __future__ import annotations

import difflib
import inspect
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Interval, Le, MinLen

from r2vpo.errors import ConfigError

Count = Annotated[int, Ge(1)]
Whole = Annotated[int, Ge(0)]
Seed = Annotated[int, Interval(ge=0, le=2**63 - 1)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Interval(ge=0, le=1)]

Anchor = Literal["behaviour", "proximal"]
Track = tuple[Literal["wandb", "mlflow", "trackio"], ...]
"""Services of :data:`r2vpo.runs.trackers.TRACKERS`."""

ObjectiveKwargs = dict[str, float | str]
"""Hyperparameters of an objective by name, such as ``{"eps": 0.1}``."""

_FORMER_NAMES = ("eps", "eps_low", "eps_high", "cap", "level")
"""Settings of their own in earlier versions, in the place of ``objective_kwargs``."""


def check_fields(settings: Any, kind: type) -> None:
    """Raise ConfigError for the first field that ``kind`` itself declares whose value its annotation does not allow.

    Numbers of other libraries become Python's in the settings, and whole ones where an int is wanted ints.
    """
    values = {name: getattr(settings, name) for name in _annotations(kind)}
    for name, value in check_values(kind, values).items():
        object.__setattr__(settings, name, value)  # they may be frozen


def check_values(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """These values as Python's own; raises ConfigError for the first that the annotation of its field leaves out."""
    return {name: checked(name, value, _annotations(kind)[name]) for name, value in values.items()}


def checked(name: str, value: Any, hint: Any) -> Any:
    """One value as Python's own; raises ConfigError where ``hint``, such as :data:`Count`, leaves it out."""
    plain = _plain(value, hint)
    problem = _problem(plain, hint)
    if problem is not None:
        raise ConfigError(name, value, problem)
    return plain


def check_names(kind: type, settings: Mapping[str, Any]) -> None:
    """Raise ConfigError for a name that is not a field of the dataclass ``kind``.

    Its ``ELSEWHERE``, where it has one, says what the names of other libraries are here.
    """
    known = [f.name for f in fields(kind)]
    for name, value in settings.items():
        if name in known:
            continue
        answer = getattr(kind, "ELSEWHERE", {}).get(name)
        if answer is None:
            close = difflib.get_close_matches(name, known, n=3)
            answer = (f"did you mean {', '.join(close)}? " if close else "") + f"The settings are {', '.join(known)}"
        raise ConfigError(name, value, f"left out: {answer}")


def check_objective(settings: Any, densities: bool = False) -> None:
    """Raise ConfigError for an ``objective`` that does not exist, or that does not take its ``objective_kwargs``.

    Args:
        settings: With ``objective`` and ``objective_kwargs``.
        densities: Whether actions are continuous, which objectives that compare probabilities do not go with.
    """
    # The default needs no look, so that --help need not wait for torch.
    if settings.objective != "r2vpo" or settings.objective_kwargs:
        from r2vpo.objectives import OF_PROBABILITIES, make_objective

        make_objective(settings.objective, **settings.objective_kwargs)
        if densities and settings.objective in OF_PROBABILITIES:
            allowed = "one that reads ratios alone: the density of a continuous action is no probability"
            raise ConfigError("objective", settings.objective, allowed)


def check_dual(settings: Any, delta_is_given: bool = True) -> None:
    """Raise ConfigError where the dual rule lacks what it needs to move lambda.

    Args:
        settings: With ``dual``, ``lam`` and ``delta``.
        delta_is_given: Whether ``delta`` has to be there for a rule that moves; else it follows from something else.
    """
    if delta_is_given and settings.dual != "fixed" and settings.delta is None:
        raise ConfigError("delta", None, f"a finite number above 0 for dual={settings.dual!r}")
    if settings.dual == "adaptive" and settings.lam == 0:
        raise ConfigError("lam", settings.lam, "above 0 for dual='adaptive', which multiplies it")


def upgraded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under today's names and as Python's values, from JSON, YAML or an earlier version."""
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    moved = {name: settings[name] for name in _FORMER_NAMES if settings.get(name) is not None}
    today = {name: value for name, value in settings.items() if name not in _FORMER_NAMES}
    if today.get("top_p") == 1.0:  # was a setting with one legal value
        del today["top_p"]
    if today.get("lr_end") == 0.0:  # where the linear schedule ends now
        del today["lr_end"]
    if moved:
        today["objective_kwargs"] = {**moved, **today.get("objective_kwargs", {})}
    return today


@cache
def _annotations(kind: type) -> dict[str, Any]:
    return inspect.get_annotations(kind, eval_str=True)


def _plain(value: Any, hint: Any) -> Any:
    """Numbers, arrays and scalars of NumPy or torch as Python's; 1e3 as an int where ``hint`` has one."""
    if hasattr(value, "tolist") and not isinstance(value, type):
        value = value.tolist()
    if get_origin(hint) is Annotated:
        return _plain(value, get_args(hint)[0])
    if get_origin(hint) is tuple and isinstance(value, str) and value in get_args(get_args(hint)[0]):
        return (value,)
    if get_origin(hint) in (Union, UnionType):
        for option in get_args(hint):  # the first that takes the value, else the value goes on to be refused
            plain = _plain(value, option)
            if _problem(plain, option) is None:
                return plain
        return value
    if isinstance(value, list | tuple):
        is_tuple = get_origin(hint) is tuple
        items = [_plain(item, get_args(hint)[0] if is_tuple else None) for item in value]
        return tuple(items) if is_tuple else type(value)(items)
    if isinstance(value, Mapping):
        return {name: _plain(item, None) for name, item in value.items()}
    if isinstance(value, numbers.Real) and not isinstance(value, int | float):
        value = int(value) if isinstance(value, numbers.Integral) else float(value)
    return int(value) if hint is int and isinstance(value, float) and value.is_integer() else value


def _problem(value: Any, hint: Any) -> str | None:
    """What ``hint`` allows, in words, where that leaves ``value`` out; None where it does not."""
    bounds: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *marks = get_args(hint)
        bounds = tuple(marks)
    options = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        problems = [_problem(value, option) for option in options if option is not NoneType]
        if None in problems or (value is None and NoneType in options):
            return None
        return " or ".join(map(str, problems)) + (", or None" if NoneType in options else "")
    if get_origin(hint) is Literal:
        return None if value in options else f"one of {', '.join(map(str, options))}"
    if get_origin(hint) is tuple:
        return _sequence_problem(value, options[0], bounds)
    if hint is bool:
        return None if isinstance(value, bool) else "True or False"
    if hint is str:
        return None if isinstance(value, str) else "a text"
    if get_origin(hint) is dict:
        named = isinstance(value, Mapping) and all(isinstance(name, str) for name in value)
        return None if named else "a mapping from names to values"
    return _number_problem(value, hint, bounds) if hint in (int, float) else None


def _sequence_problem(value: Any, element: Any, bounds: tuple[Any, ...]) -> str | None:
    least = max((mark.min_length for mark in bounds if isinstance(mark, MinLen)), default=0)
    if isinstance(value, list | tuple) and len(value) >= least and all(_problem(x, element) is None for x in value):
        return None
    # NaN is no number that any annotation here allows, and no text either: it brings out the words.
    words = _problem(math.nan, element)
    return f"a {'non-empty ' if least else ''}sequence, each entry {words}"


def _number_problem(value: Any, kind: type, bounds: Sequence[Any]) -> str | None:
    lows: list[tuple[float, str, bool]] = []
    high = math.inf
    for mark in bounds:
        for bound in mark if isinstance(mark, Interval) else (mark,):
            if isinstance(bound, Ge):
                lows.append((bound.ge, "of at least", False))  # type: ignore[arg-type]
            elif isinstance(bound, Gt):
                lows.append((bound.gt, "above", True))  # type: ignore[arg-type]
            elif isinstance(bound, Le):
                high = bound.le  # type: ignore[assignment]
    number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    inside = number and math.isfinite(value) and value <= high
    if inside and all(value > low if is_open else value >= low for low, _, is_open in lows):
        return None
    words = "a whole number" if kind is int else "a finite number"
    words += "".join(f" {text} {_short(low)}" for low, text, _ in lows)
    return words + (f" and at most {_short(high)}" if high < math.inf else "")


def _short(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"
