"""Callbacks with the names and the order of Stable-Baselines3's, so that its users find what they know."""

from r2vpo.control.callbacks.adapting import CallbackList, FunctionCallback, MaybeCallback, as_callback
from r2vpo.control.callbacks.base import BaseCallback
from r2vpo.control.callbacks.library import (
    CheckpointCallback,
    EvalCallback,
    StopOnNoImprovement,
    StopOnReward,
    StopTrainingOnMaxEpisodes,
)
from r2vpo.control.callbacks.model import Model

__all__ = [
    "BaseCallback",
    "CallbackList",
    "CheckpointCallback",
    "EvalCallback",
    "FunctionCallback",
    "MaybeCallback",
    "Model",
    "StopOnNoImprovement",
    "StopOnReward",
    "StopTrainingOnMaxEpisodes",
    "as_callback",
]
