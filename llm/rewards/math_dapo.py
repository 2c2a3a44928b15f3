r"""The verifier of DAPO (arXiv 2503.14476): normalised strings, +1 or -1.

The rules are those of its reference implementation, ``math_dapo`` in verl: only the last 300 characters are read;
the answer is what follows the last ``Answer:``, or in strict mode what the last ``\boxed{}`` of the last 100
characters holds; both sides are normalised the way Minerva does it (arXiv 2206.14858, appendix D.1) and compared as
strings. Two differences: the reference compares a boxed answer without normalising it, here both modes do; and
``\left`` and ``\right`` are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from r2vpo.llm.rewards.text import Completion, judged, last_answer_line, last_boxed

TAIL_CHARACTERS = 300
"""How much of a completion is read."""
BOXED_TAIL_CHARACTERS = 100
"""How much of it is read in strict mode."""

_UNIT_WORDS = (
    "square ways integers dollars mph inches hours km units sue points feet minutes digits cents degrees cm gm "
    "pounds meters meals edges students childrentickets multiples"
)
_ARTICLE = re.compile(r"an? ")
_SPACING = re.compile(r"\\[ ;!]|\\[lr]dots|\\dots|\\left(?![a-z])|\\right(?![a-z])| ")
_UNITS = re.compile("|".join(_UNIT_WORDS.split()) + r'|\\mathrm\{th\}|\^\\circ|\^\{\\circ\}|\{,\}|"')
_CONJUNCTION = re.compile(r",?\\text\{and\}")
_EMPTY_TEXT = re.compile(r"\\text\{[ms.\n]?\}(?:\^[23])?|\\text\{\ns\}")
_BOX = re.compile(r"\\boxed\{(.*)\}")
_MATH = re.compile(r"\$([^$]*)\$")
_WRAPPER = re.compile(r"\\(?:text|textbf|overline)\{([^{}]*)\}")
_SHORT_FRACTION = re.compile(r"frac([^{])(.)")
_SHORT_ROOT = re.compile(r"sqrt([^{])")
_GROUPED_DIGITS = re.compile(r"[0-9,]*[0-9][0-9,]*")


def math_dapo(
    prompts: Sequence[Any], completions: Sequence[Completion], answer: Sequence[Any], **columns: Any
) -> list[float | None]:
    """+1 where the last ``Answer:`` line equals the ground truth, else -1; None without a ground truth.

    Of ``[B]`` completions and ground truths; prompts and other columns are not read.
    """
    return judged(completions, answer, lambda text, truth: _verdict(last_answer_line(text[-TAIL_CHARACTERS:]), truth))


def math_dapo_strict(
    prompts: Sequence[Any], completions: Sequence[Completion], answer: Sequence[Any], **columns: Any
) -> list[float | None]:
    r"""As :func:`math_dapo`, for the last ``\boxed{}`` in the last 100 characters."""
    return judged(completions, answer, lambda text, truth: _verdict(last_boxed(text[-BOXED_TAIL_CHARACTERS:]), truth))


def normalize_answer(answer: str) -> str:
    r"""An answer as Minerva writes it, so that equal answers are mostly equal strings.

    Keeps the right-hand side of the last ``=``; drops articles, units, spaces, ``$``, ``\text{}`` around words and
    the commas of a plain integer; writes ``\frac12`` and ``\sqrt2`` with braces.
    """
    answer = answer.rpartition("=")[2]
    answer = _ARTICLE.sub("", answer).replace(".$", "$").replace("\\$", "")
    answer = _SPACING.sub("", answer.replace(",\\!", "")).replace("mbox", "text")
    answer = _UNITS.sub("", _CONJUNCTION.sub(",", answer))
    answer = _EMPTY_TEXT.sub("", answer)
    math = _MATH.search(answer)
    if math:
        answer = math.group(1)
    answer = _WRAPPER.sub(r"\1", answer)
    answer = _BOX.sub(r"\1", answer)
    answer = _SHORT_FRACTION.sub(r"frac{\1}{\2}", answer)
    answer = _SHORT_ROOT.sub(r"sqrt{\1}", answer).replace("$", "")
    if _GROUPED_DIGITS.fullmatch(answer):
        answer = answer.replace(",", "")
    return answer.strip()


def _verdict(found: str | None, ground_truth: str) -> float:
    return 1.0 if found is not None and normalize_answer(found) == normalize_answer(ground_truth) else -1.0
