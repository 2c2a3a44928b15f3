"""Symbolic comparison with the ground truth by the package math-verify, in worker processes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from r2vpo.llm.rewards.numbers import quantity
from r2vpo.llm.rewards.text import Completion, completion_text, ground_truth_text, last_boxed
from r2vpo.llm.rewards.verifier.reward import PooledReward

_BOX = re.compile(r"\\(?:boxed|fbox)\s?\{")
_TIME = re.compile(r"(?<![0-9:.])([0-9]{1,2}):([0-5][0-9])(?![0-9:])(?:\s|\\text\s?\{|~|\\,)*([ap])?\.?(?:m\b)?", re.I)
_GROUPED = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:(?:\\[,;: ]|[\u00a0\u202f])[0-9]{3})+(?![0-9])")
_EXPONENT = re.compile(r"(?<![\w.^])[0-9]{1,20}(?:\.[0-9]{1,20})?[eE][-+]?[0-9]{1,2}(?!\w)")
_MOST_BOXES = 8


class MathVerifyReward(PooledReward):
    """1 where the completion's answer equals the ground truth as mathematics, else 0.

    None also where the ground truth is missing or cannot be parsed. A completion in which math-verify finds nothing to
    parse is wrong: 0. Only the completion is read, so an answer in the prompt earns nothing. The last closed
    ``\\boxed{}`` (or ``\\fbox{}``) is the answer; without one, math-verify looks for it in the whole text. Where the
    ground truth lists several values, several boxes are one list. A time of day such as 6:30 equals only itself.
    """

    __name__ = "math_verify"

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Completion], answer: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        """Scores of ``[B]`` completions against ``[B]`` ground truths; prompts and other columns are not read."""
        texts = [completion_text(completion)[-self.max_characters :] for completion in completions]
        verdicts: dict[int, float | None] = {}
        items: dict[int, dict[str, str]] = {}
        for row, (text, given) in enumerate(zip(texts, answer, strict=True)):
            truth = ground_truth_text(given)
            if truth is None:
                self.reasons["no ground truth"] += 1
            elif (verdict := _same_time(text, truth)) is not None:
                verdicts[row] = verdict
            else:
                items[row] = {"completion": _stated(text, truth), "ground_truth": _tidy(_boxes(truth)[-1])}
        verdicts |= zip(items, self.judge(list(items.values())), strict=True)
        return [verdicts.get(row) for row in range(len(texts))]


def _stated(text: str, truth: str) -> str:
    # Left to itself math-verify takes all boxes of a text for one set: two of them, 3 and then 5, would be {3, 5}.
    boxes = _boxes(text)
    if len(boxes) == 1:
        return f"\\boxed{{{_tidy(text)}}}" if text.strip() == truth and "$" not in truth else _tidy(text)
    several = "," in truth and truth[0] not in "([" and quantity(truth) is None
    together = several and not any("," in box for box in boxes[1:])
    content = ", ".join(dict.fromkeys(map(_tidy, boxes[1:]))) if together else _tidy(boxes[-1])
    return f"\\boxed{{{content}}}"


def _boxes(text: str) -> list[str]:
    """The text, then what its last boxes hold, where the very last one closes."""
    text = _BOX.sub(r"\\boxed{", text)
    if last_boxed(text) is None:
        return [text]
    pieces = text.split("\\boxed{")[1:][-_MOST_BOXES:]
    boxes = [last_boxed("\\boxed{" + piece) for piece in pieces]
    return [text, *(box for box in boxes if box is not None)]


def _tidy(text: str) -> str:
    """Numbers the way math-verify reads them: no separators, no exponents, no unit inside of ``\\text``."""
    plain = quantity(text)
    if plain is not None:
        return plain
    text = _GROUPED.sub(lambda match: re.sub("[^0-9]", "", match.group()), text.replace("\u00b0", "^\\circ"))
    text = _EXPONENT.sub(lambda match: quantity(match.group()) or match.group(), text)
    return re.sub(r"(?<!\.)\.\s*$", "", text)


def _same_time(text: str, truth: str) -> float | None:
    """Whether both are one time of day; None where the ground truth is none, or only math-verify can tell."""
    expected = list(_TIME.finditer(truth.replace("{:}", ":")))
    if len(expected) != 1 or re.search("[0-9]", _TIME.sub("", truth.replace("{:}", ":"))):
        return None
    stated = (last_boxed(text) or text).replace("{:}", ":")
    found = list(_TIME.finditer(stated))
    if not found:
        # 6:00 is no ratio, but 1:10 may be one, and 1/10 the same.
        return 0.0 if int(expected[0][2]) == 0 or ":" in stated else None
    (hour, minute, half), (other_hour, other_minute, other_half) = expected[0].groups(), found[-1].groups()
    same = int(hour) == int(other_hour) and minute == other_minute
    return float(same and (not half or not other_half or half.lower() == other_half.lower()))
