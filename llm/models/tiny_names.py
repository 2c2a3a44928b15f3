"""Names of the tiny models, as ``--model`` takes them: ``arithmetic``, and ``reasoning-gym:TASK``. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from r2vpo.llm.data.rows import REASONING_GYM

ARITHMETIC = "arithmetic"


def is_tiny(model: str) -> bool:
    """Whether a name is that of a model which is made here."""
    return model == ARITHMETIC or model.startswith(REASONING_GYM)


def make_tiny(model: str) -> Path:
    """Directory of the tiny model of that name; made first where the cache does not have it.

    Raises:
        ConfigError: No such task, or one that a model this small does not learn.
    """
    if model == ARITHMETIC:
        from r2vpo.llm.models.tiny import ensure_tiny_model

        return ensure_tiny_model()
    from r2vpo.llm.models.tiny import ensure_made
    from r2vpo.llm.models.tiny_reasoning import TinyReasoningSettings

    return ensure_made(TinyReasoningSettings(task=model.removeprefix(REASONING_GYM)))
