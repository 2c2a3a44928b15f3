"""Exact match with the ground truth, of the whole text or of the last number; and rewards for the form of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from r2vpo.llm.rewards.numbers import last_number, only_number
from r2vpo.llm.rewards.text import Completion, completion_text, judged, last_answer_line, last_boxed

_OPEN, _CLOSE = "<think>", "</think>"


def exact(
    prompts: Sequence[Any], completions: Sequence[Completion], answer: Sequence[Any], **columns: Any
) -> list[float | None]:
    """1 where the stripped completion is the stripped ground truth, else 0; None without a ground truth.

    Args:
        prompts: Not read.
        completions: ``[B]`` texts or chats.
        answer: ``[B]`` ground truths.
        columns: Not read.
    """
    return judged(completions, answer, lambda text, truth: float(text.strip() == truth))


def number(
    prompts: Sequence[Any], completions: Sequence[Completion], answer: Sequence[Any], **columns: Any
) -> list[float | None]:
    r"""1 where the last number of the completion, or of its last ``\boxed{}``, is the ground truth, else 0.

    Numbers are compared by value and exactly: 1,000 is 1000.0, 1/4 is 0.25. A ground truth may hold text around its
    number, as GSM8K's ``... #### 72`` does; one that holds none, several, or something else such as 10:30, gives
    None. See :mod:`r2vpo.llm.rewards.numbers` for what is read.
    """
    return judged(completions, answer, _same_number)


def _same_number(text: str, truth: str) -> float | None:
    expected = only_number(truth)
    return None if expected is None else float(last_number(text) == expected)


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
