"""How far the generation engine's log-probs are from the trainer's for the same weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from r2vpo.llm.experience import unpack

if TYPE_CHECKING:
    from torch import Tensor

    from r2vpo.llm.learner import TokenLearner

SAMPLES = 256
"""Completions compared, at most."""


def engine_mismatch(learner: TokenLearner, iteration: dict[str, Tensor]) -> float:
    """E[(rho-1)^2] between trainer and engine before the first gradient step; 0 where they agree exactly.

    Args:
        learner: Holds the weights that generated the iteration.
        iteration: From :func:`r2vpo.llm.experience.pack`.
    """
    samples = unpack(iteration, age=0)[:SAMPLES]
    engine = torch.cat([sample.old_log_probs for sample in samples]).double()
    trainer = torch.cat(learner.log_probs(samples)).double()
    return float((trainer - engine).expm1().square().mean())


def mismatch_warning(mismatch: float, delta: float | None) -> str | None:
    """A warning when the engine alone uses up a tenth of delta (or of 0.01 where lambda is fixed)."""
    budget = 0.01 if delta is None else delta
    if mismatch < 0.1 * budget:
        return None
    what = "0.01, a usual ratio variance" if delta is None else f"delta={delta:g}"
    return (
        f"the engine's log-probs differ from the trainer's by E[(rho-1)^2] = {mismatch:.2e}, close to {what}: "
        "the penalty will measure the engine. Use the same precision in both, or behaviour_log_probs='trainer'."
    )
