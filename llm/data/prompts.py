"""From a row's prompt to the tokens a model continues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError

from r2vpo.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, Any]


def row_tokens(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, settings: Any) -> list[int]:
    """:func:`format_prompt` of a row of a dataset.

    Args:
        row: With a prompt in one of its columns.
        tokenizer: Of the model.
        settings: Names column, template and system prompt: a run's :class:`~r2vpo.llm.config.LLMConfig` or an
            evaluation's :class:`~r2vpo.llm.evaluation.protocol.EvaluationProtocol`.

    Raises:
        ConfigError: There is no such column, or as there.
    """
    column = settings.prompt_column
    if column not in row:
        raise ConfigError("prompt_column", column, f"one of the columns {', '.join(sorted(row))}")
    return format_prompt(row[column], tokenizer, settings.system_prompt, settings.prompt_template)


def format_prompt(
    row_prompt: str | list[Message],
    tokenizer: PreTrainedTokenizerBase,
    system_prompt: str | None = None,
    template: str | None = None,
) -> list[int]:
    """Tokens of a prompt, ``[P]``, up to where the answer begins.

    Args:
        row_prompt: Text, which goes through the tokenizer's chat template where there is one, or chat messages with
            ``role`` and ``content``.
        tokenizer: Of the model.
        system_prompt: First message of the chat where the prompt has none of its own; before a plain text, a
            paragraph.
        template: Put around a text in the place of ``{prompt}``; chat messages stay as they are.

    Raises:
        ConfigError: Chat messages without a chat template or that it refuses, or a prompt without tokens.
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


def _chat(messages: list[Message], tokenizer: PreTrainedTokenizerBase, system_prompt: str | None) -> list[int]:
    if system_prompt is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system_prompt}, *messages]
    try:
        tokens: Any = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except TemplateError as error:
        field, value = ("system_prompt", system_prompt) if system_prompt is not None else ("prompt", messages)
        raise ConfigError(field, value, f"something that the tokenizer's chat template takes ({error})") from error
    return [int(token) for token in tokens]


def _plain(text: str, tokenizer: PreTrainedTokenizerBase, system_prompt: str | None) -> list[int]:
    text = text if system_prompt is None else f"{system_prompt}\n\n{text}"
    tokens = list(tokenizer(text)["input_ids"])
    # Some tokenizers end every text with EOS; a model that reads it has nothing to continue.
    if tokens and tokens[-1] == tokenizer.eos_token_id and not text.endswith(str(tokenizer.eos_token)):
        tokens.pop()
    return tokens
