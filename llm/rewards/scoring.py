"""Calls the reward functions and adds their results up; what has no verdict is excluded and counted."""

from __future__ import annotations

import functools
import inspect
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2vpo.errors import ConfigError, R2VPOError, RewardError

RewardFunction = Callable[..., list[float | None]]
"""``f(prompts, completions, **columns) -> [B]`` numbers, None where there is no verdict (TRL's signature)."""

logger = logging.getLogger(__name__)

_LOGGED_AT_MOST = 1000
_logged: set[str] = set()


@dataclass(frozen=True)
class RewardBatch:
    """The rewards of ``B`` completions."""

    total: NDArray[np.float64]
    """``[B]`` weighted sum over the functions; NaN where ``valid`` is False."""
    valid: NDArray[np.bool_]
    """``[B]`` whether every function with a weight other than 0 had a verdict."""
    by_function: dict[str, NDArray[np.float64]]
    """``[B]`` unweighted results of each function; NaN where it had no verdict."""
    excluded: dict[str, int]
    """Items without a verdict, by function; those of a function that raised included."""
    errors: dict[str, str] = field(default_factory=dict)
    """Functions that raised, with the exception's text; they have no verdict on any item."""


def score_rows(
    functions: Sequence[tuple[str, RewardFunction]],
    weights: Sequence[float],
    rows: Sequence[Mapping[str, Any]],
    prompt_column: str,
    completions: Sequence[str],
) -> RewardBatch:
    """:func:`score` of answers to rows of a dataset, one each; the functions are given every other column."""
    names = sorted({name for row in rows for name in row} - {prompt_column, "prompts", "completion", "completions"})
    columns = {name: [row.get(name) for row in rows] for name in names}
    return score(functions, weights, [row[prompt_column] for row in rows], completions, columns)


def score(
    functions: Sequence[tuple[str, RewardFunction]],
    weights: Sequence[float],
    prompts: Sequence[Any],
    completions: Sequence[Any],
    columns: Mapping[str, Sequence[Any]],
) -> RewardBatch:
    """Score ``B`` completions with every function.

    A function that raises has no verdict on any item: that is logged once per message and kept in ``errors``. NaN and
    infinite results count as None.

    Args:
        functions: ``(name, function)``; names are unique.
        weights: One finite weight a function.
        prompts: ``[B]`` texts or chats.
        completions: ``[B]`` texts or chats.
        columns: The other columns of the dataset, ``[B]`` each; every function is given all of them.

    Raises:
        ConfigError: No function, names that repeat, weights that do not fit, an async function.
        RewardError: A column of the wrong length or a missing one, a result of the wrong length or type; also any
            error of this library that a function raises, since that one is the user's to mend.
    """
    _check_functions(functions, weights)
    size = len(completions)
    for name, column in {"prompts": prompts, **columns}.items():
        if len(column) != size:
            raise RewardError(f"column {name!r} has {len(column)} rows for {size} completions")
    by_function: dict[str, NDArray[np.float64]] = {}
    errors: dict[str, str] = {}
    for name, function in functions:
        try:
            result = _call(name, function, prompts, completions, columns)
        except R2VPOError:
            raise
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {error}"
            _log_once(name, errors[name])
            result = [None] * size
        by_function[name] = _as_array(name, result, size)
    total, valid = _weighted_sum(by_function, weights, size)
    excluded = {name: int(np.isnan(values).sum()) for name, values in by_function.items()}
    return RewardBatch(total, valid, by_function, excluded, errors)


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it returns a coroutine instead of rewards."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _check_functions(functions: Sequence[tuple[str, RewardFunction]], weights: Sequence[float]) -> None:
    names = [name for name, _ in functions]
    if not names or len(set(names)) != len(names):
        raise ConfigError("functions", names, "at least one reward function, each with a name of its own")
    if len(weights) != len(names) or not all(math.isfinite(weight) for weight in weights):
        raise ConfigError("weights", list(weights), f"one finite number for each of {', '.join(names)}")
    for name, function in functions:
        if is_async(function):
            raise ConfigError("reward", name, "a plain function: async functions are not supported")


def _call(
    name: str,
    function: RewardFunction,
    prompts: Sequence[Any],
    completions: Sequence[Any],
    columns: Mapping[str, Sequence[Any]],
) -> Any:
    try:
        inspect.signature(function).bind(prompts, completions, **columns)
    except TypeError as error:
        have = ", ".join(columns) or "none"
        raise RewardError(f"reward {name!r} does not fit the columns of the dataset ({have}): {error}") from error
    return function(prompts, completions, **columns)


def _as_array(name: str, result: Any, size: int) -> NDArray[np.float64]:
    if isinstance(result, str) or not hasattr(result, "__len__"):
        raise RewardError(f"reward {name!r} must return a list of {size} numbers or None, got {type(result).__name__}")
    if len(result) != size:
        raise RewardError(f"reward {name!r} returned {len(result)} results for {size} completions")
    return np.array([_as_float(name, row, value) for row, value in enumerate(result)], dtype=np.float64)


def _as_float(name: str, row: int, value: Any) -> float:
    if value is None:
        return math.nan
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        number = float(value)
    except OverflowError:
        return math.nan
    except (TypeError, ValueError) as error:
        got = f"{type(value).__name__} for item {row}"
        raise RewardError(f"reward {name!r} must return numbers or None, got a {got}") from error
    return number if math.isfinite(number) else math.nan


def _weighted_sum(
    by_function: Mapping[str, NDArray[np.float64]], weights: Sequence[float], size: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    total = np.zeros(size)
    for weight, values in zip(weights, by_function.values(), strict=True):
        if weight != 0.0:  # 0 times the NaN of a missing verdict would exclude the item after all
            total = total + weight * values
    return total, np.isfinite(total)


def _log_once(name: str, message: str) -> None:
    line = f"reward {name!r} raised {message}"
    if line not in _logged and len(_logged) < _LOGGED_AT_MOST:
        _logged.add(line)
        logger.exception("%s; its items are excluded", line)
