"""reasoning-gym tasks, scored by the verifier of the dataset they come from, in worker processes."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from r2vpo.errors import ConfigError, RewardError
from r2vpo.llm.rewards.text import Completion, completion_text, last_answer_line, last_boxed
from r2vpo.llm.rewards.verifier.pool import DEFAULT_MEMORY_BYTES, VerifierPool

_TAG = re.compile(r"</?answer>")


class ReasoningGymReward:
    """The dataset's own ``score_answer(answer, entry)``: mostly 0 to 1, with partial credit in some tasks.

    The answer is what the last ``<answer>...</answer>`` holds; without one, the last ``\\boxed{}``, else what follows
    the last ``Answer:``, else the whole text behind ``</think>``. None where the verifier hit its time limit, ran out
    of memory, raised, or lost its process.

    Args:
        workers: Processes. They start with the first call and end with :meth:`close`, or with this process.
        timeout_seconds: Wall-clock limit of one verdict.
        memory_bytes: Address space of one worker.
        max_characters: Longest answer that is read; of a longer one, its end.

    Raises:
        ConfigError: A value outside its range.
        RewardError: The package reasoning-gym is not installed.
    """

    __name__ = "reasoning_gym"

    def __init__(
        self,
        workers: int = 2,
        timeout_seconds: float = 5.0,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        max_characters: int = 20_000,
    ) -> None:
        if max_characters < 1:
            raise ConfigError("max_characters", max_characters, "at least 1")
        if find_spec("reasoning_gym") is None:
            raise RewardError("the reward reasoning_gym needs a package: pip install reasoning-gym")
        self.pool = VerifierPool(workers, timeout_seconds, memory_bytes, checks=("reasoning_gym",))
        self.max_characters = max_characters
        self.reasons: Counter[str] = Counter()
        """Kinds of reasons for which items had no verdict, with their counts, over all calls."""

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
        verdicts = self.pool.run("reasoning_gym", items)
        self.reasons.update(verdict.kind for verdict in verdicts if verdict.value is None)
        return [verdict.value for verdict in verdicts]

    def close(self) -> None:
        """End the worker processes."""
        self.pool.close()


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
