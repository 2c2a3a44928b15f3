"""Rows of a dataset as problems with tokens, checked before any work starts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from r2vpo.errors import ConfigError
from r2vpo.llm.config import LLMConfig
from r2vpo.llm.prompt_stream import Problem
from r2vpo.llm.prompts import format_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_log = logging.getLogger(__name__)


def make_problems(
    rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, config: LLMConfig
) -> list[Problem]:
    """Tokenise the prompts and leave out those that are too long, saying how many.

    Raises:
        ConfigError: The prompt column is missing, or every prompt is longer than ``max_prompt_tokens``.
    """
    problems = []
    for row in rows:
        if config.prompt_column not in row:
            raise ConfigError("prompt_column", config.prompt_column, f"one of the columns {', '.join(sorted(row))}")
        tokens = format_prompt(
            row[config.prompt_column], tokenizer, system_prompt=config.system_prompt, template=config.prompt_template
        )
        if len(tokens) <= config.max_prompt_tokens:
            problems.append(Problem(row, tuple(tokens)))
    dropped = len(rows) - len(problems)
    if rows and not problems:
        raise ConfigError(
            "max_prompt_tokens", config.max_prompt_tokens, f"larger: all {dropped} prompts of the dataset are longer"
        )
    if dropped:
        _log.warning("left out %d of %d problems: longer than %d tokens", dropped, len(rows), config.max_prompt_tokens)
    return problems


def check_context(model: Any, config: LLMConfig) -> None:
    """Raise ConfigError when prompt and completion together do not fit the model's context."""
    context = getattr(model.config, "max_position_embeddings", None)
    longest = config.max_prompt_tokens + config.max_completion_tokens
    if context is not None and longest > context:
        allowed = f"at most {context - config.max_prompt_tokens}: the model's context is {context} tokens"
        raise ConfigError(
            "max_completion_tokens",
            config.max_completion_tokens,
            f"{allowed}, max_prompt_tokens {config.max_prompt_tokens}",
        )
