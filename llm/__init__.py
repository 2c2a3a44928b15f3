"""Token policies for language models: `R2VPOTrainer`, with the surface of TRL's GRPOTrainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r2vpo.llm.config import LLMConfig
    from r2vpo.llm.models.token_policy import TokenPolicy
    from r2vpo.llm.trainer import R2VPOTrainer

_HOMES = {"LLMConfig": "config", "R2VPOTrainer": "trainer", "TokenPolicy": "models.token_policy"}

__all__ = ["LLMConfig", "R2VPOTrainer", "TokenPolicy"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: the command line reads configurations without waiting for torch.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
