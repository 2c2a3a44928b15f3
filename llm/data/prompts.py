"""From a row's prompt to the tokens a model continues."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from r2vpo.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, Any]


def row_tokens(
    row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, settings: Any, index: int | None = None
) -> list[int]:
    """:func:`format_prompt` of a row of a dataset.

    Args:
        row: With a prompt in one of its columns.
        tokenizer: Of the model.
        settings: Names column, template and system prompt: a run's :class:`~r2vpo.llm.config.LLMConfig` or an
            evaluation's :class:`~r2vpo.llm.evaluation.protocol.EvaluationProtocol`.
        index: Of the row, for messages.

    Raises:
        ConfigError: There is no such column, or as there.
    """
    column = settings.prompt_column
    if column not in row:
        raise ConfigError("prompt_column", column, f"one of the columns {', '.join(sorted(row))}")
    try:
        return format_prompt(row[column], tokenizer, settings.system_prompt, settings.prompt_template)
    except ConfigError as error:
        place = "" if index is None else f"; row {index} of the dataset is not"
        raise ConfigError(error.field, error.value, f"{error.allowed}{place}") from error


def format_prompt(
    row_prompt: str | Sequence[Message],
    tokenizer: PreTrainedTokenizerBase,
    system_prompt: str | None = None,
    template: str | None = None,
) -> list[int]:
    """Tokens of a prompt, ``[P]``, up to where the answer begins.

    Args:
        row_prompt: Text, which goes through the tokenizer's chat template where there is one, or chat messages with
            ``role`` and ``content``. A last message of the assistant is the beginning of the answer.
        tokenizer: Of the model.
        system_prompt: First message of the chat where the prompt has none of its own; before a plain text, a
            paragraph.
        template: Put around a text in the place of ``{prompt}``; chat messages stay as they are.

    Raises:
        ConfigError: Chat messages without a chat template, that it refuses or leaves out, or a prompt without tokens.
    """
    has_template = bool(getattr(tokenizer, "chat_template", None))
    if isinstance(row_prompt, str):
        # not str.format: templates and problems are full of LaTeX's braces
        text = row_prompt if template is None else template.replace("{prompt}", row_prompt)
        messages = [{"role": "user", "content": text}]
        tokens = _chat(messages, tokenizer, system_prompt) if has_template else _plain(text, tokenizer, system_prompt)
    elif has_template:
        tokens = _chat(row_prompt, tokenizer, system_prompt)
    else:
        raise ConfigError("prompt", row_prompt, "a text: the tokenizer has no chat template for messages")
    if not tokens:
        raise ConfigError("prompt", row_prompt, "at least one token long")
    return tokens


def _chat(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, system_prompt: str | None) -> list[int]:
    own = [{**message, "content": content_text(message.get("content"))} for message in messages]
    added = system_prompt is not None and own[0]["role"] != "system"
    if added:
        own = [{"role": "system", "content": system_prompt}, *own]
    begun = own[-1]["role"] == "assistant"
    field, value = ("system_prompt", system_prompt) if added else ("prompt", messages)
    try:
        text: Any = tokenizer.apply_chat_template(
            own, tokenize=False, add_generation_prompt=not begun, continue_final_message=begun
        )
    except Exception as error:  # templates are programs: they raise whatever Python's and their own functions do
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(field, value, f"something that the tokenizer's chat template takes ({reason})") from error
    for place, message in enumerate(own):
        if not _is_shown(message, text):
            field, value = ("system_prompt", system_prompt) if added and place == 0 else ("prompt", messages)
            role = message["role"]
            raise ConfigError(field, value, f"in a role that the tokenizer's chat template shows: it drops {role!r}")
    return [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


def _is_shown(message: Message, text: str) -> bool:
    # Earlier answers may be shortened: templates take the thoughts out of them.
    if message["role"] == "assistant" or not isinstance(message["content"], str):
        return True
    content = message["content"].strip()
    return content in text or json.dumps(content, ensure_ascii=False)[1:-1] in text


def content_text(content: Any) -> Any:
    """Parts of text (``{"type": "text", "text": ...}``) as one text, as templates of text models want it."""
    if not isinstance(content, list | tuple):
        return content
    return "".join(part if isinstance(part, str) else part["text"] for part in content)


def _plain(text: str, tokenizer: PreTrainedTokenizerBase, system_prompt: str | None) -> list[int]:
    text = text if system_prompt is None else f"{system_prompt}\n\n{text}"
    tokens = list(tokenizer(text)["input_ids"])
    # Some tokenizers end every text with EOS; a model that reads it has nothing to continue.
    if tokens and tokens[-1] == tokenizer.eos_token_id and not text.endswith(str(tokenizer.eos_token)):
        tokens.pop()
    return tokens
