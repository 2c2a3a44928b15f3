"""Reward functions by name: those shipped here, and the user's: ``package.module:function``, ``file.py:function``."""

from __future__ import annotations

import functools
import inspect
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

from r2vpo.errors import ConfigError
from r2vpo.llm.rewards.calling import RewardFunction

REWARDS = {
    "math_dapo": "r2vpo.llm.rewards.math_dapo:math_dapo",
    "math_dapo_strict": "r2vpo.llm.rewards.math_dapo:math_dapo_strict",
    "math_verify": "r2vpo.llm.rewards.math_verify:MathVerifyReward",
    "exact": "r2vpo.llm.rewards.exact:exact",
    "number": "r2vpo.llm.rewards.exact:number",
    "boxed_format": "r2vpo.llm.rewards.exact:boxed_format",
    "answer_format": "r2vpo.llm.rewards.exact:answer_format",
    "think_format": "r2vpo.llm.rewards.exact:think_format",
    "reasoning_gym": "r2vpo.llm.rewards.reasoning:ReasoningGymReward",
}
"""Every shipped reward by the name that :func:`make_reward` and the command line take."""


def make_reward(name: str, **options: Any) -> RewardFunction:
    """Look a reward up and bind its options.

    Args:
        name: A key of :data:`REWARDS`, ``package.module:function`` or ``file.py:function``. A class is made with the
            options.
        options: Keyword arguments of the class or function, such as ``timeout_seconds`` of ``math_verify``.

    Raises:
        ConfigError: Unknown name or option, a value outside its range, something that cannot be imported or
            called.
    """
    if name not in REWARDS and ":" not in name:
        raise ConfigError("reward", name, f"one of {', '.join(REWARDS)}, or package.module:function")
    target = _load(name, REWARDS.get(name, name))
    _check_options(name, target, options)
    if inspect.isclass(target):
        return _checked(name, target(**options))
    return _checked(name, functools.partial(target, **options) if options else target)


def _load(name: str, path: str) -> Any:
    module, _, attribute = path.rpartition(":")
    try:
        return attrgetter(attribute)(_from_file(module) if module.endswith(".py") else import_module(module))
    except Exception as error:  # a user's module may raise anything while it is imported
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError("reward", name, f"a package.module:function that can be imported ({reason})") from error


def _from_file(path: str) -> ModuleType:
    name = Path(path).stem
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = module_from_spec(spec)
    sys.modules.setdefault(name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _check_options(name: str, target: Any, options: dict[str, Any]) -> None:
    if not callable(target):
        raise ConfigError("reward", name, f"a function or a class, but it is a {type(target).__name__}")
    parameters = inspect.signature(target).parameters
    if name not in REWARDS and any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    # The parameters of a shipped function are the columns of the dataset, not options.
    known = [] if name in REWARDS and not inspect.isclass(target) else list(parameters)
    for key, value in options.items():
        if key not in known:
            raise ConfigError(key, value, f"left out; {name} takes {', '.join(known) or 'no options'}")


def _checked(name: str, function: object) -> RewardFunction:
    if not callable(function):
        raise ConfigError("reward", name, "a class whose objects can be called")
    return function
