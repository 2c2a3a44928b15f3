"""Gaussian policies for continuous control: `R2VPO`, with the surface of a Stable-Baselines3 algorithm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from r2vpo.control.algorithm import R2VPO
    from r2vpo.control.callbacks import (
        BaseCallback,
        CallbackList,
        CheckpointCallback,
        EvalCallback,
        StopOnNoImprovement,
        StopOnReward,
    )
    from r2vpo.control.config import ControlConfig
    from r2vpo.control.evaluation import EvaluationResult, evaluate_policy

__all__ = [
    "R2VPO",
    "BaseCallback",
    "CallbackList",
    "CheckpointCallback",
    "ControlConfig",
    "EvalCallback",
    "EvaluationResult",
    "StopOnNoImprovement",
    "StopOnReward",
    "evaluate_policy",
]

# Loaded on first use: the command line answers --help without waiting for torch.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "algorithm": ("R2VPO",),
        "callbacks": (
            "BaseCallback",
            "CallbackList",
            "CheckpointCallback",
            "EvalCallback",
            "StopOnNoImprovement",
            "StopOnReward",
        ),
        "config": ("ControlConfig",),
        "evaluation": ("EvaluationResult", "evaluate_policy"),
    },
)
