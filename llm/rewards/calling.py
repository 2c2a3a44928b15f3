"""One way to call any reward function: by keyword, as TRL's ``GRPOTrainer`` does, with what the function names."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r2vpo.errors import ConfigError, RewardError

RewardFunction = Callable[..., Any]
"""``f(prompts=..., completions=..., **columns) -> [B]`` numbers, None where there is no verdict; may be async."""


@dataclass
class TrainerState:
    """How far the run is, by the names of transformers' ``TrainerState``; rewards get it as ``trainer_state``."""

    global_step: int = 0
    """Iterations so far."""
    max_steps: int = 0
    """Iterations of the whole run; 0 outside of a run."""


def function_name(function: Any) -> str:
    """A name for anything that can be called: its own, that of what a partial wraps, or that of its class."""
    name = getattr(function, "__name__", None)
    if isinstance(name, str):
        return name
    if isinstance(function, functools.partial):
        return function_name(function.func)
    return type(function).__name__


def reward_names(rewards: Iterable[str | RewardFunction]) -> tuple[str, ...]:
    """A name of its own for each function, with ``_2``, ``_3`` and so on where needed; a text is a name already."""
    unique: list[str] = []
    for reward in rewards:
        base = name = reward if isinstance(reward, str) else function_name(reward)
        number = 1
        while name in unique and not isinstance(reward, str):
            number += 1
            name = f"{base}_{number}"
        unique.append(name)
    return tuple(unique)


def reward_list(rewards: Any) -> list[str | RewardFunction]:
    """One reward or several, names or functions, as a list.

    Raises:
        ConfigError: Something that is neither, none at all, or a class in the place of its object.
    """
    single = isinstance(rewards, str) or callable(rewards) or not isinstance(rewards, Sequence)
    found = [rewards] if single else list(rewards)
    for reward in found:
        if inspect.isclass(reward):
            raise ConfigError("reward_funcs", reward.__name__, f"functions; give an object, {reward.__name__}(...)")
        if not isinstance(reward, str) and not callable(reward):
            raise ConfigError("reward_funcs", reward, "names of rewards or functions, one or a list of them")
    if not found:
        raise ConfigError("reward_funcs", rewards, "at least one reward")
    return found


def reward_columns(rows: Iterable[Mapping[str, Any]], prompt_column: str) -> list[str]:
    """The columns of rows that reward functions are given: all but the prompt, and none with a name of ours."""
    return sorted({name for row in rows for name in row} - {prompt_column, "prompts", "completion", "completions"})


def check_columns(name: str, function: RewardFunction, rows: Iterable[Mapping[str, Any]], prompt_column: str) -> None:
    """Raise RewardError unless a function can be called with the columns of a dataset."""
    columns = reward_columns(rows, prompt_column)
    _arguments(name, function, dict.fromkeys([*_GIVEN, *columns]), columns)


def call(name: str, function: RewardFunction, offered: Mapping[str, Any]) -> Any:
    """Call a function with those of the offered arguments that it takes.

    Args:
        name: Of the function, for messages.
        function: Anything that can be called; an async one runs in an event loop of its own thread.
        offered: ``prompts``, ``completions``, the columns and what else TRL passes.

    Returns:
        Its result, or for an async function a ``concurrent.futures.Future`` of it.

    Raises:
        RewardError: It needs something that is not offered.
    """
    columns = sorted(set(offered) - set(_GIVEN))
    # Lists of its own: what one function sorts or empties, the next one and the next iteration get whole.
    offered = {key: _copied(value) for key, value in offered.items()}
    arguments, named = _arguments(name, function, offered, columns)
    try:
        result = function(*arguments, **named)
    except BaseException as error:
        raise _tamed(error) from error
    if inspect.isawaitable(result):
        return asyncio.run_coroutine_threadsafe(_awaited(result), _event_loop(os.getpid()))
    return getattr(result, "detach", lambda: result)()


def as_chat(prompts: Sequence[Any], completions: Sequence[Any]) -> list[Any]:
    """``[B]`` completions; the texts that answer a chat as ``[{"role": "assistant", "content": text}]``, as in TRL."""
    return [
        [{"role": "assistant", "content": text}] if isinstance(text, str) and not isinstance(prompt, str) else text
        for prompt, text in zip(prompts, completions, strict=True)
    ]


_GIVEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
_LEADING = ("prompts", "completions")


def _arguments(
    name: str, function: RewardFunction, offered: Mapping[str, Any], columns: Sequence[str]
) -> tuple[list[Any], dict[str, Any]]:
    target = getattr(function, "forward", function)  # a torch module's own __call__ takes anything
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):  # functions in C may have no signature
        return [], dict(offered)
    if target is not function and any(parameter.name == "input_ids" for parameter in parameters):
        raise RewardError(f"reward {name!r} is a model that reads tokens; give a function that tokenises and calls it")
    arguments: list[Any] = []
    named: dict[str, Any] = {}
    missing: list[str] = []
    for place, parameter in enumerate(parameters):
        key = parameter.name
        if parameter.kind is parameter.VAR_KEYWORD:
            taken = {each.name for each in parameters[:place] if each.kind is not each.POSITIONAL_ONLY} | set(named)
            by_place = _LEADING[: len(arguments)]
            named |= {each: value for each, value in offered.items() if each not in taken and each not in by_place}
        elif parameter.kind is parameter.POSITIONAL_ONLY or (_unread(parameter) and len(arguments) == place < 2):
            if place < len(_LEADING):
                arguments.append(offered[_LEADING[place]])
            elif parameter.default is parameter.empty:
                missing.append(key)
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            if key in offered:
                named[key] = offered[key]
            elif parameter.default is parameter.empty:
                missing.append(key)
    if missing:
        have = ", ".join(columns) or "none"
        raise RewardError(
            f"reward {name!r} does not fit the columns of the dataset ({have}): it needs {', '.join(missing)}; "
            "it is called as f(prompts=..., completions=..., **columns)"
        )
    return arguments, named


def _copied(value: Any) -> Any:
    if type(value) is dict:
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if type(value) is list else value


def _unread(parameter: inspect.Parameter) -> bool:
    # lambda _, completions, **columns
    return parameter.name.startswith("_") and parameter.kind is parameter.POSITIONAL_OR_KEYWORD


def _tamed(error: BaseException) -> BaseException:
    """An exception of a function; one that ends programs, exit() in a judge say, as an ordinary one."""
    if isinstance(error, Exception | KeyboardInterrupt):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")


async def _awaited(result: Any) -> Any:
    try:
        return await result
    except BaseException as error:  # one that is no Exception would end the loop and leave everybody waiting
        raise _tamed(error) from error


@functools.lru_cache(maxsize=1)
def _event_loop(process: int) -> asyncio.AbstractEventLoop:
    # One loop for all calls, since HTTP clients stay bound to theirs; by process, since a fork loses the thread.
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="async rewards", daemon=True).start()
    return loop
