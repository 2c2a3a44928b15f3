"""What the trainer asks of whatever generates text. Hugging Face and vLLM engines implement it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from r2vpo.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Raises:
        ConfigError: A value outside its range.
    """

    max_tokens: int
    """Longest completion, in tokens, the end-of-sequence token included."""
    temperature: float = 1.0
    """Logits are divided by this; 0 takes the likeliest token."""
    top_p: float = 1.0
    """Nucleus; below 1 only for evaluation, because it makes every ratio wrong."""

    def __post_init__(self) -> None:
        """Check every field."""
        if self.max_tokens < 1:
            raise ConfigError("max_tokens", self.max_tokens, "at least 1")
        if not 0.0 <= self.temperature < float("inf"):
            raise ConfigError("temperature", self.temperature, "a finite number of at least 0")
        if not 0.0 < self.top_p <= 1.0:
            raise ConfigError("top_p", self.top_p, "above 0 and at most 1")


@dataclass(frozen=True)
class Completion:
    """One sampled answer and the behaviour policy's view of it."""

    tokens: NDArray[np.int32]
    """Sampled tokens ``[T]``, the end-of-sequence token included where it was sampled."""
    log_probs: NDArray[np.float32]
    """Log-probability of each under the distribution it was drawn from, ``[T]``; at temperature 0, of temperature 1."""
    finished: bool
    """Whether it ended by itself; False when it was cut at ``max_tokens``."""
    weight_version: int
    """Version of the weights that generated it, as given to :meth:`RolloutEngine.sync_weights`."""


class RolloutEngine(Protocol):
    """Generates completions with log-probs from a copy (or the very same object) of the trained weights."""

    weight_version: int
    """Version of the weights in force."""

    def generate(
        self, prompts: Sequence[Sequence[int]], group_size: int, sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        """Sample ``group_size`` completions of every prompt.

        Args:
            prompts: Token ids, without padding.
            group_size: Completions per prompt, at least 1.
            sampling: How tokens are drawn.
            seeds: One for each completion, ``[len(prompts) * group_size]``. A completion depends on its own seed and
                prompt alone, up to rounding, and not on what else is in the batch.

        Returns:
            Completions, those of one prompt next to each other, in the order of ``seeds``.

        Raises:
            ConfigError: A prompt that leaves no room for ``max_tokens`` in the model's context.
            RolloutError: The engine returned log-probs that are not finite, or failed.
        """
        ...

    def sync_weights(self, model: PreTrainedModel, version: int) -> None:
        """Make the next completions come from the weights of ``model``, and stamp them with ``version``."""
        ...

    def close(self) -> None:
        """Free memory and processes."""
        ...
