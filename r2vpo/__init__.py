"""Ratio-variance regularized policy optimization (arXiv 2601.03320 and 2605.26784).

This package is the core: the objectives, the dual variable, replay over iterations, advantages, diagnostics and the
update where they meet. It knows nothing about robots or tokens; `r2vpo.control` and `r2vpo.llm` do.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from r2vpo.dual import DualController
    from r2vpo.errors import R2VPOError
    from r2vpo.objectives import OBJECTIVES, Objective, make_objective
    from r2vpo.policy import Policy
    from r2vpo.replay import ReplayBuffer
    from r2vpo.update import PolicyUpdater, Scored

try:
    __version__ = version("r2vpo")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "unknown"

__all__ = [
    "OBJECTIVES",
    "DualController",
    "Objective",
    "Policy",
    "PolicyUpdater",
    "R2VPOError",
    "ReplayBuffer",
    "Scored",
    "make_objective",
]

# Loaded on first use: the command line answers --help without waiting for torch.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "dual": ("DualController",),
        "errors": ("R2VPOError",),
        "objectives": ("OBJECTIVES", "Objective", "make_objective"),
        "policy": ("Policy",),
        "replay": ("ReplayBuffer",),
        "update": ("PolicyUpdater", "Scored"),
    },
)
