"""reasoning-gym tasks, scored by the verifier of the dataset they come from, in worker processes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from r2vpo.errors import RewardError
from r2vpo.llm.rewards.text import Completion, completion_text, last_answer_line, last_boxed
from r2vpo.llm.rewards.verifier.reward import PooledReward

_TAG = re.compile(r"</?answer>")


class ReasoningGymReward(PooledReward):
    """The dataset's own ``score_answer(answer, entry)``: mostly 0 to 1, with partial credit in some tasks.

    The answer is what the last ``<answer>...</answer>`` holds; without one, the last ``\\boxed{}``, else what follows
    the last ``Answer:``, else the whole text behind ``</think>``.
    """

    __name__ = "reasoning_gym"

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Completion],
        entry: Sequence[str | Mapping[str, Any]],
        task: Sequence[str] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Scores of ``[B]`` completions.

        Args:
            prompts: Not read.
            completions: ``[B]`` texts or chats.
            entry: ``[B]`` items as reasoning-gym made them (``question``, ``answer``, ``metadata``), as JSON or dicts.
            task: ``[B]`` dataset names; left out, the entry's ``metadata["source_dataset"]``.
            columns: Not read.

        Raises:
            RewardError: An entry that is not such an item.
        """
        entries = [_read_entry(each) for each in entry]
        names = task if task is not None else [_source(each) for each in entries]
        items = [
            {"answer": extract_answer(completion_text(completion))[-self.max_characters :], "task": name, "entry": each}
            for completion, name, each in zip(completions, names, entries, strict=True)
        ]
        return self.judge(items)


def extract_answer(text: str) -> str:
    """The answer of a completion, stripped, by the rules of :class:`ReasoningGymReward`."""
    tagged = _last_tagged(text)
    if tagged is not None:
        return tagged.strip()
    text = text.rpartition("</think>")[2]
    for found in (last_boxed(text), last_answer_line(text)):
        if found is not None:
            return found.strip()
    return text.strip()


def _last_tagged(text: str) -> str | None:
    opened, found = None, None
    for tag in _TAG.finditer(text):
        if tag.group() == "<answer>":
            opened = tag.end()
        elif opened is not None:
            found, opened = text[opened : tag.start()], None
    return found


def _read_entry(entry: str | Mapping[str, Any]) -> dict[str, Any]:
    try:
        item = json.loads(entry) if isinstance(entry, str) else dict(entry)
    except ValueError as error:
        raise RewardError(f"a reasoning-gym entry is not JSON: {error}") from error
    if not isinstance(item, dict) or "metadata" not in item or "answer" not in item:
        raise RewardError("a reasoning-gym entry must have answer and metadata")
    return item


def _source(entry: Mapping[str, Any]) -> str:
    name = entry["metadata"].get("source_dataset")
    if not isinstance(name, str):
        raise RewardError("a reasoning-gym entry without a task column needs metadata.source_dataset")
    return name
