"""Names of the tiny models, as ``--model`` takes them: ``arithmetic``, ``expressions``, ``reasoning-gym:TASK``.

Needs no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r2vpo.llm.data.rows import REASONING_GYM

ARITHMETIC, EXPRESSIONS = "arithmetic", "expressions"

_PRESET: dict[str, Any] = {
    "prompts_per_iteration": 64,
    "minibatch_size": 128,
    "learning_rate": 1e-4,
    "lr_schedule": "linear",
    "lam": 0.5,
    "total_rollouts": 51_200,
    "max_prompt_tokens": 32,
    "max_completion_tokens": 16,
}
"""A tiny model on its own task. Lambda and learning rate were searched on sums (benchmarks/llm_arithmetic/search)."""


def is_tiny(model: str) -> bool:
    """Whether a name is that of a model which is made here."""
    return model in (ARITHMETIC, EXPRESSIONS) or model.startswith(REASONING_GYM)


def tiny_preset(model: str) -> dict[str, Any]:
    """Settings that suit a tiny model; none for any other."""
    if not is_tiny(model):
        return {}
    return {**_PRESET, "max_completion_tokens": 64} if model == EXPRESSIONS else _PRESET


def make_tiny(model: str) -> Path:
    """Directory of the tiny model of that name; made first where the cache does not have it.

    Raises:
        ConfigError: No such task, or one that a model this small does not learn.
    """
    from r2vpo.llm.models.tiny import ExpressionSettings, ensure_made, ensure_tiny_model

    if model == ARITHMETIC:
        return ensure_tiny_model()
    if model == EXPRESSIONS:
        return ensure_made(ExpressionSettings())
    from r2vpo.llm.models.tiny_reasoning import TinyReasoningSettings

    return ensure_made(TinyReasoningSettings(task=model.removeprefix(REASONING_GYM)))
