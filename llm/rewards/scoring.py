"""Calls the reward functions and adds their results up; what has no verdict is excluded and counted."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2vpo.errors import ConfigError, R2VPOError, RewardError
from r2vpo.llm.rewards.calling import RewardFunction, TrainerState, as_chat, call, reward_columns

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
    logged: dict[str, list[float]] = field(default_factory=dict)
    """What the functions gave to ``log_metric``, by name."""
    extra: dict[str, list[Any]] = field(default_factory=dict)
    """What they gave to ``log_extra``, ``[B]`` by name."""


def score_rows(
    functions: Sequence[tuple[str, RewardFunction]],
    weights: Sequence[float],
    rows: Sequence[Mapping[str, Any]],
    prompt_column: str,
    completions: Sequence[str],
    **given: Any,
) -> RewardBatch:
    """:func:`score` of answers to rows of a dataset, one each; the functions are given every other column."""
    columns = {name: [row.get(name) for row in rows] for name in reward_columns(rows, prompt_column)}
    return score(functions, weights, [row[prompt_column] for row in rows], completions, columns, **given)


def score(
    functions: Sequence[tuple[str, RewardFunction]],
    weights: Sequence[float],
    prompts: Sequence[Any],
    completions: Sequence[Any],
    columns: Mapping[str, Sequence[Any]],
    completion_ids: Sequence[Sequence[int]] | None = None,
    trainer_state: TrainerState | None = None,
) -> RewardBatch:
    """Score ``B`` completions with every function, called by keyword with whatever of all this it takes, as TRL does.

    A function that raises has no verdict on any item: that is logged once per message and kept in ``errors``. NaN and
    infinite results count as None. Async functions run side by side.

    Args:
        functions: ``(name, function)``; names are unique.
        weights: One finite weight a function.
        prompts: ``[B]`` texts or chats.
        completions: ``[B]`` texts or chats; a text that answers a chat is given as a chat of one message.
        columns: The other columns of the dataset, ``[B]`` each.
        completion_ids: Tokens of the completions, ``[B]`` lists; None offers none.
        trainer_state: How far the run is; None is its beginning.

    Raises:
        ConfigError: No function, names that repeat, weights that do not fit.
        RewardError: A column of the wrong length or a missing one, a result of the wrong length or type; also any
            error of this library that a function raises, since that one is the user's to mend.
    """
    _check_functions(functions, weights)
    size = len(completions)
    for name, column in {"prompts": prompts, **columns}.items():
        if len(column) != size:
            raise RewardError(f"column {name!r} has {len(column)} rows for {size} completions")
    logged: dict[str, list[float]] = {}
    extra: dict[str, list[Any]] = {}
    offered = {
        **columns,
        "prompts": list(prompts),
        "trainer_state": trainer_state or TrainerState(),
        "log_metric": lambda name, value: logged.setdefault(str(name), []).append(float(value)),
        "log_extra": lambda name, values: extra.__setitem__(str(name), list(values)),
    }
    if completion_ids is not None:
        offered["completion_ids"] = [list(ids) for ids in completion_ids]
    results: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for name, function in functions:
        with _noting(name, errors):
            results[name] = call(name, function, {**offered, "completions": as_chat(prompts, completions)})
    for name, result in results.items():
        if isinstance(result, Future):
            with _noting(name, errors):
                results[name] = result.result()
    no_verdict = [None] * size
    by_function = {
        name: _as_array(name, no_verdict if name in errors else results[name], size) for name, _ in functions
    }
    total, valid = _weighted_sum(by_function, weights, size)
    excluded = {name: int(np.isnan(values).sum()) for name, values in by_function.items()}
    extra = {name: values for name, values in extra.items() if len(values) == size}
    return RewardBatch(total, valid, by_function, excluded, errors, logged, extra)


@contextmanager
def _noting(name: str, errors: dict[str, str]) -> Iterator[None]:
    """Keep an exception of a function, but let those of this library through."""
    try:
        yield
    except R2VPOError:
        raise
    except Exception as error:
        errors[name] = f"{type(error).__name__}: {error}"
        _log_once(f"reward {name!r} raised {errors[name]}", error)


def _check_functions(functions: Sequence[tuple[str, RewardFunction]], weights: Sequence[float]) -> None:
    names = [name for name, _ in functions]
    if not names or len(set(names)) != len(names):
        raise ConfigError("functions", names, "at least one reward function, each with a name of its own")
    if len(weights) != len(names) or not all(math.isfinite(weight) for weight in weights):
        raise ConfigError("weights", list(weights), f"one finite number for each of {', '.join(names)}")


def _as_array(name: str, result: Any, size: int) -> NDArray[np.float64]:
    kind = type(result).__name__
    try:
        if isinstance(result, str | bytes | Mapping | Set) or not hasattr(result, "__len__"):
            raise TypeError
        values = list(result)
    except TypeError as error:  # an array of no dimension has __len__ too
        raise RewardError(f"reward {name!r} must return a list of {size}, each a number or None, got {kind}") from error
    if len(values) != size:
        raise RewardError(f"reward {name!r} returned {len(values)} results for {size} completions")
    numbers = np.array([_as_float(name, row, value) for row, value in enumerate(values)], dtype=np.float64)
    nowhere = int(np.isnan(numbers).sum()) - sum(value is None for value in values)
    if nowhere:
        _log_once(f"reward {name!r} returned NaN or an infinite number; such items count as without a verdict")
    return numbers


def _as_float(name: str, row: int, value: Any) -> float:
    if value is None:
        return math.nan
    try:
        if isinstance(value, str | bytes | bytearray) or getattr(value, "shape", ()) != ():
            raise TypeError
        number = float(value.detach() if hasattr(value, "detach") else value)
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


def _log_once(line: str, error: Exception | None = None) -> None:
    if line in _logged or len(_logged) >= _LOGGED_AT_MOST:
        return
    _logged.add(line)
    if error is None:
        logger.warning("%s", line)
        return
    place = traceback.extract_tb(error.__traceback__)[-1]
    logger.error("%s (%s, line %s); its items are excluded", line, place.filename, place.lineno)
    logger.debug("where it was raised:", exc_info=error)
