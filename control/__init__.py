"""Gaussian policies for continuous control: `R2VPO`, with the surface of a Stable-Baselines3 algorithm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r2vpo.control.algorithm import R2VPO
    from r2vpo.control.callbacks import BaseCallback, CallbackList, EvalCallback
    from r2vpo.control.config import ControlConfig
    from r2vpo.control.evaluation import EvaluationResult, evaluate_policy

_HOMES = {
    "R2VPO": "algorithm",
    "BaseCallback": "callbacks",
    "CallbackList": "callbacks",
    "EvalCallback": "callbacks",
    "ControlConfig": "config",
    "EvaluationResult": "evaluation",
    "evaluate_policy": "evaluation",
}

__all__ = [
    "R2VPO",
    "BaseCallback",
    "CallbackList",
    "ControlConfig",
    "EvalCallback",
    "EvaluationResult",
    "evaluate_policy",
]


def __getattr__(name: str) -> Any:
    # Loaded on first use: the command line reads configurations without waiting for torch.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
