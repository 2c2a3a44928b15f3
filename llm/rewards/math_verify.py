"""Symbolic comparison with the ground truth by the package math-verify, in worker processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from r2vpo.errors import ConfigError, RewardError
from r2vpo.llm.rewards.text import Completion, completion_text, ground_truth_text, last_boxed
from r2vpo.llm.rewards.verifier.pool import DEFAULT_MEMORY_BYTES, VerifierPool

__all__ = ["MathVerifyReward", "VerifierPool"]


class MathVerifyReward:
    """1 where the completion's answer equals the ground truth as mathematics, else 0.

    None, never 0, where the comparison hit its time limit, ran out of memory, raised, or lost its process, and where
    the ground truth is missing or cannot be parsed. A completion in which math-verify finds nothing to parse is
    wrong: 0. Only the completion is read, so an answer in the prompt earns nothing. The last closed ``\\boxed{}`` is
    the answer; without one, math-verify looks for it in the whole text.

    Args:
        workers: Processes. They start with the first call and end with :meth:`close`, or with this process.
        timeout_seconds: Wall-clock limit of one comparison.
        memory_bytes: Address space of one worker.
        max_characters: Only so much of the end of a completion is read, since answers stand at the end and some
            patterns of math-verify take time that grows with the square of the length.

    Raises:
        ConfigError: A value outside its range.
        RewardError: The package math-verify is not installed.
    """

    __name__ = "math_verify"

    def __init__(
        self,
        workers: int = 2,
        timeout_seconds: float = 5.0,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        max_characters: int = 20_000,
    ) -> None:
        if max_characters < 1:
            raise ConfigError("max_characters", max_characters, "at least 1")
        if find_spec("math_verify") is None:
            raise RewardError("the reward math_verify needs a package: pip install math-verify")
        self.pool = VerifierPool(workers, timeout_seconds, memory_bytes, checks=("math_verify",))
        self.max_characters = max_characters
        self.reasons: Counter[str] = Counter()
        """Kinds of reasons for which items had no verdict, with their counts, over all calls."""

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Completion], answer: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        """Scores of ``[B]`` completions against ``[B]`` ground truths; prompts and other columns are not read."""
        texts = [_stated(completion_text(completion)[-self.max_characters :]) for completion in completions]
        truths = [ground_truth_text(truth) for truth in answer]
        items = {
            row: {"completion": text, "ground_truth": truth}
            for row, (text, truth) in enumerate(zip(texts, truths, strict=True))
            if truth is not None
        }
        verdicts = dict(zip(items, self.pool.run("math_verify", list(items.values())), strict=True))
        self.reasons.update(verdict.kind for verdict in verdicts.values() if verdict.value is None)
        self.reasons["no ground truth"] += len(texts) - len(items)
        return [verdicts[row].value if row in verdicts else None for row in range(len(texts))]

    def close(self) -> None:
        """End the worker processes."""
        self.pool.close()


def _stated(text: str) -> str:
    # Left to itself math-verify takes all boxes of a text for one set: two of them, 3 and then 5, would be {3, 5}.
    boxed = last_boxed(text)
    return text if boxed is None else f"\\boxed{{{boxed}}}"
