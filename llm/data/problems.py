"""Problems of a run: rows with their tokens, and whether a model can read and answer them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from r2vpo.errors import ConfigError
from r2vpo.llm.config import LLMConfig
from r2vpo.llm.data.prompts import row_tokens
from r2vpo.llm.engines.base import context_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """A row of the dataset with its tokens."""

    row: dict[str, Any]
    tokens: tuple[int, ...]
    """Prompt, without padding."""


def make_problems(
    rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, config: LLMConfig
) -> list[Problem]:
    """Tokenise the prompts and leave out those that are too long, saying how many.

    Raises:
        ConfigError: A prompt that gives no tokens, with its row, or every prompt is longer than ``max_prompt_tokens``.
    """
    all_tokens = [row_tokens(row, tokenizer, config, index) for index, row in enumerate(rows)]
    limit = config.max_prompt_tokens
    problems = [Problem(row, tuple(t)) for row, t in zip(rows, all_tokens, strict=True) if len(t) <= limit]
    dropped = len(rows) - len(problems)
    if rows and not problems:
        shortest = min(map(len, all_tokens))
        allowed = f"larger: all {dropped} prompts of the dataset are longer, the shortest has {shortest} tokens"
        raise ConfigError("max_prompt_tokens", limit, allowed)
    if dropped:
        _log.warning("left out %d of %d problems: longer than %d tokens", dropped, len(rows), limit)
    return problems


def check_context(model: PreTrainedModel, config: LLMConfig, problems: Sequence[Problem] = ()) -> None:
    """Raise ConfigError when prompt and completion together do not fit the model's context."""
    context, prompt, completion = context_length(model), config.max_prompt_tokens, config.max_completion_tokens
    if context is None or prompt + completion <= context:
        return
    longest = max((len(problem.tokens) for problem in problems), default=0)
    found = f"; the longest prompt of the dataset has {longest} tokens" if longest else ""
    size = f"the model's context is {context} tokens"
    if prompt < context:
        allowed = f"at most {context - prompt}: {size}, max_prompt_tokens {prompt}{found}"
        raise ConfigError("max_completion_tokens", completion, allowed)
    room = context - completion if completion < context else context - 1
    allowed = f"at most {room}, to leave room for a completion: {size}, max_completion_tokens {completion}{found}"
    raise ConfigError("max_prompt_tokens", prompt, allowed)
