"""Gaussian policies for continuous control: `R2VPO`, with the surface of a Stable-Baselines3 algorithm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r2vpo.lazy import lazy_names

if TYPE_CHECKING:
    from r2vpo.control.algorithm import R2VPO
    from r2vpo.control.callbacks import BaseCallback, CallbackList, EvalCallback
    from r2vpo.control.config import ControlConfig
    from r2vpo.control.evaluation import EvaluationResult, evaluate_policy

__all__ = [
    "R2VPO",
    "BaseCallback",
    "CallbackList",
    "ControlConfig",
    "EvalCallback",
    "EvaluationResult",
    "evaluate_policy",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "algorithm": ("R2VPO",),
        "callbacks": ("BaseCallback", "CallbackList", "EvalCallback"),
        "config": ("ControlConfig",),
        "evaluation": ("EvaluationResult", "evaluate_policy"),
    },
)
