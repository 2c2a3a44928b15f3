"""Finding the answer in a completion. Every search is linear in the length of its text, whatever the text is."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from r2vpo.errors import RewardError

Completion = str | Sequence[Mapping[str, Any]]
"""Plain text, or chat messages with ``role`` and ``content``."""

_BOXED = "\\boxed{"
_BRACES = re.compile(r"\\.|\{+|\}+", re.DOTALL)
_ANSWER_LINE = re.compile(r"answer\s*:\s*([^\n]+)", re.IGNORECASE)


def completion_text(completion: Completion) -> str:
    """The text of a completion: the string itself, or the content of the last assistant message.

    Content that is a list of parts (``{"type": "text", "text": ...}``) is joined; a missing content is empty.

    Raises:
        RewardError: Neither text nor chat messages.
    """
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Sequence) and all(isinstance(message, Mapping) for message in completion):
        messages = cast(Sequence[Mapping[str, Any]], completion)
        replies = [message for message in messages if message.get("role", "assistant") == "assistant"]
        return _content_text(replies[-1].get("content")) if replies else ""
    raise RewardError(f"a completion must be text or a list of chat messages, got {type(completion).__name__}")


def last_boxed(text: str) -> str | None:
    r"""What the last ``\boxed{...}`` of a text holds; None without one, or when its braces never close.

    Braces escaped with a backslash are text. Of nested boxes the innermost is the last.
    """
    start = text.rfind(_BOXED)
    if start < 0:
        return None
    start += len(_BOXED)
    depth = 1
    # Runs of one brace are single matches, so that a megabyte of them costs nothing.
    for match in _BRACES.finditer(text, start):
        run = match.group()
        if run[0] == "{":
            depth += len(run)
        elif run[0] == "}":
            if len(run) >= depth:
                return text[start : match.start() + depth - 1]
            depth -= len(run)
    return None


def last_answer_line(text: str) -> str | None:
    """What follows the last ``Answer:`` (any case) up to the end of its line; None without one."""
    found = _last(_ANSWER_LINE.finditer(text))
    return found.group(1) if found else None


def ground_truth_text(answer: Any) -> str | None:
    """A ground truth as stripped text; None when there is nothing to compare with."""
    if answer is None:
        return None
    return str(answer).strip() or None


def judged(
    completions: Sequence[Completion], answers: Sequence[Any], judge: Callable[[str, str], float | None]
) -> list[float | None]:
    """``judge(text, ground truth)`` of ``[B]`` completions; None without a ground truth."""
    pairs = zip(map(completion_text, completions), map(ground_truth_text, answers), strict=True)
    return [None if truth is None else judge(text, truth) for text, truth in pairs]


def _last(matches: Iterator[re.Match[str]]) -> re.Match[str] | None:
    newest = deque(matches, maxlen=1)
    return newest[0] if newest else None


def _content_text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    raise RewardError(f"the content of a message must be text or a list of parts, got {type(content).__name__}")
