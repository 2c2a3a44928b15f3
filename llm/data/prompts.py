"""From a row's prompt to the tokens a model continues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    tokens: Any = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    return [int(token) for token in tokens]


def _plain(text: str, tokenizer: PreTrainedTokenizerBase, system_prompt: str | None) -> list[int]:
    text = text if system_prompt is None else f"{system_prompt}\n\n{text}"
    tokens = list(tokenizer(text)["input_ids"])
    # Some tokenizers end every text with EOS; a model that reads it has nothing to continue.
    if tokens and tokens[-1] == tokenizer.eos_token_id and not text.endswith(str(tokenizer.eos_token)):
        tokens.pop()
    return tokens
