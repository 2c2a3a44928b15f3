"""Running out of memory, with advice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from r2vpo.errors import OutOfMemory
from r2vpo.llm.config import LLMConfig


@contextmanager
def advice_when_memory_runs_out(config: LLMConfig) -> Iterator[None]:
    """Turn torch's out-of-memory errors into one that names the settings to lower.

    Raises:
        OutOfMemory: The GPU's memory, or the machine's, ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        names = ["tokens_per_micro_batch", "prompts_per_iteration", "max_completion_tokens"]
        settings = ", ".join(f"{name}={getattr(config, name)}" for name in names)
        extra = "" if config.gradient_checkpointing else "; or set gradient_checkpointing"
        raise OutOfMemory(f"out of memory: lower {settings}{extra}, or train adapters with lora_rank") from error


def _is_out_of_memory(error: BaseException) -> bool:
    # On the CPU torch raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
