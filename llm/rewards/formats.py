"""Rewards for the form of a completion, whatever it says: 1 where it has the form, else 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from r2vpo.llm.rewards.text import Completion, completion_text, last_answer_line, last_boxed

_OPEN, _CLOSE = "<think>", "</think>"


def boxed_format(prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any) -> list[float | None]:
    r"""1 where the last ``\boxed{}`` closes and is not empty."""
    return [float(bool((last_boxed(completion_text(c)) or "").strip())) for c in completions]


def answer_format(prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any) -> list[float | None]:
    """1 where something follows the last ``Answer:`` on its line."""
    return [float(bool((last_answer_line(completion_text(c)) or "").strip())) for c in completions]


def think_format(prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any) -> list[float | None]:
    """1 where a completion is exactly one ``<think>...</think>`` and then an answer.

    Some chat templates end the prompt with ``<think>``; then the completion must not open it again.
    """
    return [float(_thinks(p, completion_text(c))) for p, c in zip(prompts, completions, strict=True)]


def _thinks(prompt: Any, text: str) -> bool:
    if isinstance(prompt, str) and prompt.rstrip().endswith(_OPEN):
        text = _OPEN + text
    once = text.count(_OPEN) == 1 and text.count(_CLOSE) == 1
    return once and text.lstrip().startswith(_OPEN) and bool(text.partition(_CLOSE)[2].strip())
