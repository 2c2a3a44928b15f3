"""What every rollout engine asks of a request before it generates, and of a model before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from r2vpo.errors import ConfigError
from r2vpo.llm.rollout import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
    length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(length) if length else None


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


def base_causal_lm(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its LoRA layers in place but without peft's wrapper around it."""
    return model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model
