"""Whether a model and a tokenizer, given as objects or loaded by name, can be trained together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from r2vpo.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def check_model_object(model: Any) -> None:
    """Raise ConfigError unless it can be a language model, and one with something to train."""
    name = type(model).__name__
    if not hasattr(model, "config") or not hasattr(model, "parameters"):
        raise ConfigError("model", name, "a name, a directory or a causal language model")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        count = sum(parameter.numel() for parameter in model.parameters())
        allowed = f"a model with parameters to train: all {count:,} are frozen (requires_grad is False)"
        raise ConfigError("model", name, allowed)


def check_tokenizer_object(tokenizer: Any) -> None:
    """Raise ConfigError unless it is a tokenizer."""
    from transformers import PreTrainedTokenizerBase

    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        inner = "; a processor has one as its .tokenizer" if hasattr(tokenizer, "tokenizer") else ""
        allowed = f"a tokenizer of transformers{inner}"
        raise ConfigError("processing_class", None if tokenizer is None else type(tokenizer).__name__, allowed)


def check_vocabulary(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Iterable[Sequence[int]], name: str
) -> None:
    """Raise ConfigError where the tokenizer has tokens that the model has no embedding for.

    Special tokens of other models of a family, such as those for pictures, may be without one where no prompt has them.

    Args:
        model: Of the embedding.
        tokenizer: Of the prompts.
        prompts: Token ids.
        name: Of the model, for messages.
    """
    size = model.get_input_embeddings().weight.shape[0]
    beyond = {token: index for token, index in tokenizer.get_vocab().items() if index >= size}
    if not beyond:
        return
    needed = {tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id}
    needed.update(*prompts)
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    unusable = [token for token, index in beyond.items() if index not in special or index in needed]
    if unusable:
        tokens = max(beyond.values()) + 1
        allowed = (
            f"one with an embedding for each of the {tokens} tokens of its tokenizer; it has {size}, and none for "
            f"{unusable[0]!r} (model.resize_token_embeddings({tokens}) adds them)"
        )
        raise ConfigError("model", name, allowed)


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that pads; any will do, and a tokenizer without one stays as it is in that."""
    return int(next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0))
