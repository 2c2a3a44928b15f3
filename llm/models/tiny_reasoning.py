"""The tiny model of a reasoning-gym task: the recipe of ``tiny`` with characters and an instruction.

reasoning-gym puts the same sentence before (and after) every problem of a task. The tokenizer reads it as one token:
prompts are then as short as what differs between them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from r2vpo.errors import ConfigError
from r2vpo.llm.data.files import Row
from r2vpo.llm.data.rows import REASONING_GYM, load_rows
from r2vpo.llm.models.tiny import TinyModelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class TinyReasoningSettings(TinyModelSettings):
    """The model of a reasoning-gym task."""

    family: ClassVar[str] = "tiny-reasoning"

    task: str = ""
    """Name of the task with its settings, such as ``gcd,max_value=60``."""
    examples: int = 1000
    """Different training problems whose answers the warm start may learn from: more than of the sums, whose one rule
    a few problems show."""
    learning_rate: float = 2e-3
    """Of the warm start."""

    def __post_init__(self) -> None:
        """Check every field; raises ConfigError."""
        super().__post_init__()
        if not self.task:
            raise ConfigError("task", self.task, "the name of a reasoning-gym task")

    def problems(self) -> tuple[list[Row], list[Row]]:
        """The first training problems, each once, and all validation problems."""
        train = list({row["prompt"]: row for row in self._training_rows}.values())[: self.examples]
        validation = load_rows(f"{REASONING_GYM}{self.task}", "validation")
        for row in (*train, *validation):
            if row["answer"] is None:
                raise ConfigError("task", self.task, "a task that names an answer to each problem")
        return train, validation

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """ASCII, and the instruction as one token before the problem and one behind it."""
        from r2vpo.llm.models.tiny_tokenizer import ASCII, make_tokenizer

        phrases = shared_phrases([row["prompt"] for row in self._training_rows])
        for row in self._training_rows:
            unknown = set(f"{row['prompt']}{row['answer']}") - set(ASCII).union(*phrases)
            if unknown:
                raise ConfigError("task", self.task, f"a task written in ASCII; a problem has {min(unknown)!r}")
        return make_tokenizer(self.max_length, ASCII, phrases)

    @cached_property
    def _training_rows(self) -> list[Row]:
        return load_rows(f"{REASONING_GYM}{self.task}", "train")


def shared_phrases(texts: Sequence[str]) -> tuple[str, ...]:
    """What all texts begin with, and what they end with; left out where it is a single character or none.

    The two are cut so that they do not overlap in the shortest text.
    """
    before = _common_start(texts)
    shortest = min(map(len, texts)) - len(before)
    after = _common_start([text[::-1] for text in texts])[:shortest][::-1]
    return tuple(dict.fromkeys(phrase for phrase in (before, after) if len(phrase) > 1))


def _common_start(texts: Sequence[str]) -> str:
    # The first and the last in order differ soonest.
    first, last = min(texts), max(texts)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(character for character, _ in same)
