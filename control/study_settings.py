"""Settings given as NAME=VALUE, with the types that ControlConfig has for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args, get_origin, get_type_hints

from r2vpo.control.config import ControlConfig
from r2vpo.errors import ConfigError
from r2vpo.validation import check_names

ELSEWHERE = {
    "env": "--env",
    "algo": "--algos",
    "objective": "--algos",
    "preset": "--algos",
    "seed": "--first-seed and --seeds",
    "total_steps": "--total-steps",
    "eval_episodes": "--episodes",
}
"""Settings that a study has an argument of its own for."""

_HINTS = get_type_hints(ControlConfig)


def parse_settings(words: Sequence[str]) -> dict[str, Any]:
    """Settings from words like ``delta=0.05``, as values that JSON has.

    Values are checked here as far as their type goes; ranges are the configuration's to check.

    Args:
        words: ``NAME=VALUE`` each; lists are separated by commas, ``none`` is None.

    Raises:
        ConfigError: A word without ``=``, an unknown name, one given twice, or one with an argument of its own.
    """
    settings: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ConfigError("set", word, "NAME=VALUE, as in delta=0.05")
        check_names(ControlConfig, {name: text})
        if name in ELSEWHERE:
            raise ConfigError(name, text, f"left out of --set: {ELSEWHERE[name]} says it")
        if name in settings:
            raise ConfigError(name, text, "given once")
        settings[name] = _value(name, text)
    return settings


def setting_words(settings: dict[str, Any]) -> list[str]:
    """The words that :func:`parse_settings` reads these settings from."""
    return [f"{name}={_text(value)}" for name, value in settings.items()]


def _value(name: str, text: str) -> Any:
    hint = _HINTS[name]
    if get_origin(hint) is tuple:
        return [_number(part) for part in text.split(",")]
    value: Any = {"none": None, "true": True, "false": False}.get(text.lower(), _number(text))
    if hint is bool and not isinstance(value, bool):
        raise ConfigError(name, value, "True or False")
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole and float in (hint, *get_args(hint)) else value


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
