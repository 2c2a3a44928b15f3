"""Token policies for language models: `R2VPOTrainer`, with the surface of TRL's GRPOTrainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from r2vpo.llm.config import LLMConfig
    from r2vpo.llm.models.token_policy import TokenPolicy
    from r2vpo.llm.trainer import R2VPOTrainer

__all__ = ["LLMConfig", "R2VPOTrainer", "TokenPolicy"]

# Loaded on first use: the command line answers --help without waiting for torch.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={"config": ("LLMConfig",), "models.token_policy": ("TokenPolicy",), "trainer": ("R2VPOTrainer",)},
)
