"""From a row's prompt to the tokens a model continues."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from r2vpo.errors import ConfigError
from r2vpo.llm.config import LLMConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, Any]


def format_prompt(
    row_prompt: str | list[Message],
    tokenizer: PreTrainedTokenizerBase,
    system_prompt: str | None = None,
    template: str | None = None,
    chat: bool | None = None,
) -> list[int]:
    """Tokens of a prompt, ``[P]``, up to where the answer begins.

    Args:
        row_prompt: Text, or chat messages with ``role`` and ``content``.
        tokenizer: Of the model.
        system_prompt: First message of the chat where the prompt has none of its own; before a plain text, a
            paragraph.
        template: Put around a text, with ``{prompt}`` in it; chat messages stay as they are.
        chat: Whether a text is sent through the tokenizer's chat template; None does so where there is one.

    Raises:
        ConfigError: Chat messages or ``chat=True`` without a chat template, chat messages with ``chat=False``, a
            template without ``{prompt}``, or a prompt without tokens.
    """
    messages = isinstance(row_prompt, list)
    has_template = bool(getattr(tokenizer, "chat_template", None))
    if messages and chat is False:
        raise ConfigError("chat", chat, "True or None where prompts are chat messages")
    use_chat = messages or (has_template if chat is None else chat)
    if use_chat and not has_template:
        what = "a text: this prompt is chat messages" if messages else "sent as plain text (chat=None)"
        raise ConfigError("prompt", row_prompt, f"{what}, and the tokenizer has no chat template")
    if isinstance(row_prompt, str):
        text = _fill(template, row_prompt)
        tokens = (
            _chat(_as_messages(text), tokenizer, system_prompt) if use_chat else _plain(text, tokenizer, system_prompt)
        )
    else:
        tokens = _chat(row_prompt, tokenizer, system_prompt)
    if not tokens:
        raise ConfigError("prompt", row_prompt, "at least one token long")
    return tokens


def _fill(template: str | None, prompt: str) -> str:
    if template is None:
        return prompt
    if "{prompt}" not in template:
        raise ConfigError("prompt_template", template, "a text with {prompt} in it, or None")
    return template.replace("{prompt}", prompt)  # not str.format: templates and problems are full of LaTeX's braces


def _as_messages(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def _chat(messages: list[Message], tokenizer: PreTrainedTokenizerBase, system_prompt: str | None) -> list[int]:
    if system_prompt is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system_prompt}, *messages]
    tokens = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    return [int(token) for token in tokens]


def _plain(text: str, tokenizer: PreTrainedTokenizerBase, system_prompt: str | None) -> list[int]:
    text = text if system_prompt is None else f"{system_prompt}\n\n{text}"
    tokens = list(tokenizer(text)["input_ids"])
    # Some tokenizers end every text with EOS; a model that reads it has nothing to continue.
    if tokens and tokens[-1] == tokenizer.eos_token_id and not text.endswith(str(tokenizer.eos_token)):
        tokens.pop()
    return tokens


@dataclass(frozen=True)
class Problem:
    """A row of the dataset with its tokens."""

    row: dict[str, Any]
    tokens: tuple[int, ...]
    """Prompt, without padding."""


class PromptStream:
    """Deals problems in the order of one shuffled pass after another; the order depends on seed and pass alone.

    Args:
        problems: At least one.
        seed: Of the shuffles.
    """

    def __init__(self, problems: Sequence[Problem], seed: int) -> None:
        self.problems, self.seed = problems, seed
        self.dealt = 0
        self._pass = -1
        self._order: list[int] = []

    def take(self, count: int) -> list[Problem]:
        """The next ``count`` problems."""
        taken = []
        for _ in range(count):
            which, place = divmod(self.dealt, len(self.problems))
            if which != self._pass:
                self._pass = which
                self._order = np.random.default_rng([self.seed, which]).permutation(len(self.problems)).tolist()
            taken.append(self.problems[self._order[place]])
            self.dealt += 1
        return taken


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
