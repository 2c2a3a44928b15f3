"""Checks that a configuration runs over its fields before any work starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from r2vpo.errors import ConfigError

Check = Callable[[Any], None]
"""Takes a configuration; raises ConfigError."""


def check_names(kind: type, settings: dict[str, Any]) -> None:
    """Raise ConfigError for a name that is not a field of the dataclass ``kind``."""
    known = [f.name for f in fields(kind)]
    for name, value in settings.items():
        if name not in known:
            raise ConfigError(name, value, f"left out; the settings are {', '.join(known)}")


def whole(name: str, lowest: int) -> Check:
    """The field is a whole number of at least ``lowest``."""

    def check(config: Any) -> None:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            raise ConfigError(name, value, f"a whole number of at least {lowest}")

    return check


def real(
    name: str, lowest: float, highest: float = math.inf, *, open_low: bool = False, optional: bool = False
) -> Check:
    """The field is a finite number between the bounds; ``open_low`` leaves out the lower one."""

    def check(config: Any) -> None:
        value = getattr(config, name)
        if value is None and optional:
            return
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value < lowest or value > highest or (open_low and value == lowest):
            bound = f"above {lowest:g}" if open_low else f"of at least {lowest:g}"
            upper = f" and at most {highest:g}" if highest < math.inf else ""
            raise ConfigError(name, value, f"a finite number {bound}{upper}" + (", or None" if optional else ""))

    return check


def choice(name: str, *options: Any) -> Check:
    """The field is one of the options."""

    def check(config: Any) -> None:
        if getattr(config, name) not in options:
            raise ConfigError(name, getattr(config, name), f"one of {', '.join(map(str, options))}")

    return check


def boolean(name: str) -> Check:
    """The field is True or False."""

    def check(config: Any) -> None:
        if not isinstance(getattr(config, name), bool):
            raise ConfigError(name, getattr(config, name), "True or False")

    return check


def delta_where_needed(config: Any) -> None:
    """A dual rule that moves lambda has a delta, and the adaptive one a first lambda above 0."""
    if config.dual != "fixed" and config.delta is None:
        raise ConfigError("delta", None, f"a finite number above 0 for dual={config.dual!r}")
    lam_can_move(config)


def lam_can_move(config: Any) -> None:
    """The adaptive dual rule, which multiplies lambda, starts above 0."""
    if config.dual == "adaptive" and config.lam == 0:
        raise ConfigError("lam", config.lam, "above 0 for dual='adaptive'")
