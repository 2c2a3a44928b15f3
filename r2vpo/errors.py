"""Errors a user can act on. Each message names the field, the value it had and what is allowed."""


class R2VPOError(Exception):
    """Base class of every error this library raises on purpose."""


class ConfigError(R2VPOError, ValueError):
    """A setting has a value that is not allowed."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field}={value!r} is not allowed: {field} must be {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed


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


class OutOfMemory(R2VPOError):
    """Memory ran out; the message names the settings to lower."""


class TrainingDiverged(R2VPOError):
    """Non-finite losses or log-probs stopped the run before they reached a checkpoint."""
