"""Symbolic comparison with the ground truth by the package math-verify, in worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from r2vpo.llm.rewards.text import Completion, completion_text, ground_truth_text, last_boxed
from r2vpo.llm.rewards.verifier.reward import PooledReward


class MathVerifyReward(PooledReward):
    """1 where the completion's answer equals the ground truth as mathematics, else 0.

    None also where the ground truth is missing or cannot be parsed. A completion in which math-verify finds nothing to
    parse is wrong: 0. Only the completion is read, so an answer in the prompt earns nothing. The last closed
    ``\\boxed{}`` is the answer; without one, math-verify looks for it in the whole text.
    """

    __name__ = "math_verify"

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
        verdicts = dict(zip(items, self.judge(list(items.values())), strict=True))
        self.reasons["no ground truth"] += len(texts) - len(items)
        return [verdicts.get(row) for row in range(len(texts))]


def _stated(text: str) -> str:
    # Left to itself math-verify takes all boxes of a text for one set: two of them, 3 and then 5, would be {3, 5}.
    boxed = last_boxed(text)
    return text if boxed is None else f"\\boxed{{{boxed}}}"
