"""What the trainer asks of whatever generates text. Hugging Face and vLLM engines implement it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from r2vpo.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


CONTEXT_NAMES = ("max_position_embeddings", "max_seq_len", "seq_length", "max_sequence_length")
"""Names in configurations of the longest sequence; the first is by far the most usual, MPT and ChatGLM have others."""


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


def check_request(
    prompts: Sequence[Sequence[int]],
    group_size: int,
    sampling: Sampling,
    seeds: Sequence[int],
    context_length: int | None,
) -> None:
    """Refuse what no engine can generate.

    Args:
        prompts: Token ids of P prompts.
        group_size: Completions per prompt, G.
        sampling: Its ``max_tokens`` counts against the context.
        seeds: ``[P * G]``.
        context_length: Longest prompt and completion together, in tokens; None where the model has no limit.

    Raises:
        ConfigError: No token in a prompt, the wrong number of seeds, or no room for the completion.
    """
    if group_size < 1:
        raise ConfigError("group_size", group_size, "at least 1")
    if len(seeds) != len(prompts) * group_size:
        expected = f"one for each completion: {len(prompts)} prompts times {group_size}, got {len(seeds)}"
        raise ConfigError("seeds", f"<{len(seeds)} numbers>", expected)
    lengths = [len(prompt) for prompt in prompts]
    if 0 in lengths:
        raise ConfigError("prompts", f"<prompt {lengths.index(0)} without tokens>", "at least one token each")
    if context_length is None or not lengths:
        return
    room = context_length - sampling.max_tokens
    if room < 1:
        allowed = f"less than the model's context of {context_length} tokens, so that a prompt fits too"
        raise ConfigError("max_completion_tokens", sampling.max_tokens, allowed)
    if max(lengths) > room:
        allowed = (
            f"at most {room}, the model's context of {context_length} tokens less max_completion_tokens="
            f"{sampling.max_tokens}; prompt {lengths.index(max(lengths))} has {max(lengths)} tokens"
        )
        raise ConfigError("max_prompt_tokens", max(lengths), allowed)


def context_length(model: PreTrainedModel) -> int | None:
    """Longest sequence the model was built for, in tokens, or None where its config names none."""
    config = model.config.get_text_config()
    lengths = [getattr(config, name, None) for name in CONTEXT_NAMES]
    return next((int(length) for length in lengths if isinstance(length, int | float) and length > 0), None)


def eos_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens that end a completion: those of the generation config and of the tokenizer, sorted.

    Chat models often name the end of a turn in one place and the end of a text in the other.

    Raises:
        ConfigError: Neither names one, so no completion could ever finish.
    """
    named = getattr(model.generation_config, "eos_token_id", None)
    found = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}
    if not found:
        raise ConfigError("eos_token_id", None, "set, on the tokenizer or on the model's generation config")
    return sorted(int(token) for token in found)
