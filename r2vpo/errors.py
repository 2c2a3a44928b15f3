"""Errors a user can act on. Each message names the field, the value it had and what is allowed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from packaging.specifiers import SpecifierSet


class R2VPOError(Exception):
    """Base class of every error this library raises on purpose."""


class ConfigError(R2VPOError, ValueError):
    """A setting has a value that is not allowed."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field}={shown(value)} is not allowed: {field} must be {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are pickled as their class called with the message, which is not how this one is called.
        return _restored, (type(self), self.args, vars(self))


def shown(value: object, most: int = 400) -> str:
    """A value for a message: its repr, of a long one the beginning and the end."""
    try:
        text = repr(value)
    except Exception:  # integers of thousands of digits have none, and objects of users may raise anything
        return f"<{type(value).__name__}>"
    return text if len(text) <= most else f"{text[: most - 60]}...{text[-50:]}"


def _restored(kind: type[ConfigError], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> ConfigError:
    error = kind.__new__(kind)
    error.args = arguments
    vars(error).update(attributes)
    return error


class CheckpointError(R2VPOError):
    """A checkpoint is missing, truncated, foreign or does not fit what it is loaded into."""


class RunDirectoryError(R2VPOError):
    """A run directory cannot be written, is in use, or holds another run."""


class EnvironmentFailure(R2VPOError):
    """An environment raised or returned something no algorithm can learn from."""


class RolloutError(R2VPOError):
    """A generation engine failed, or returned something no algorithm can learn from."""


class RewardError(R2VPOError):
    """A reward function cannot be called, or returned something that is not one number or None an item."""


class NoVerdicts(RewardError):
    """The reward functions judged nothing for several iterations; the message names them and what they raised."""


class OutOfMemory(R2VPOError):
    """Memory ran out; the message names the settings to lower."""


class HostVersionError(R2VPOError, ImportError):
    """A library that an adapter extends is missing, or has a version that the adapter was not written for."""


class TrainingDiverged(R2VPOError):
    """Non-finite losses or log-probs stopped the run before they reached a checkpoint."""


def require_host(distribution: str, supported: str, extra: str) -> str:
    """Make sure that an adapter runs on a version of its host library that it was written for.

    Args:
        distribution: Name on the package index, such as ``"trl"``.
        supported: Supported range as a version specifier, such as ``">=1.16,<1.17"``.
        extra: Extra of this package that installs it.

    Returns:
        The installed version.

    Raises:
        HostVersionError: Not installed, or a version outside the range.
    """
    remedy = f'pip install "r2vpo[{extra}]"'
    try:
        installed = version(distribution)
    except PackageNotFoundError:
        message = f"{distribution} is not installed; this adapter needs {distribution}{supported}: {remedy}"
        raise HostVersionError(message) from None
    if not SpecifierSet(supported).contains(installed, prereleases=True):
        message = f"{distribution} {installed} is not supported; this adapter needs {distribution}{supported}: {remedy}"
        raise HostVersionError(message)
    return installed
