"""The checks a verifier process can run, by name. Each factory loads its library and returns the check.

Only the worker calls them. Nothing here imports torch, so that a worker starts in about a second and stays small.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from itertools import product
from typing import Any

from r2vpo.llm.rewards.verifier.guarded_eval import guard_reasoning_gym, guard_sympy

Check = Callable[..., float]


def load_math_verify() -> Check:
    """``check(completion, ground_truth) -> 1.0 or 0.0``, symbolically, with math-verify."""
    from math_verify import parse, verify

    # It warns once that its own timeouts are off. They must be: they need the main thread and cannot stop C code.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    guard_sympy()

    def check(completion: str, ground_truth: str) -> float:
        gold = parse(_as_latex(ground_truth), parsing_timeout=None, raise_on_error=True)
        if not gold:
            raise ValueError("the ground truth cannot be parsed")
        stated = parse(completion, parsing_timeout=None, raise_on_error=True)
        failure: Exception | None = None
        for expected, candidate in product(gold, stated):
            try:
                if verify(expected, candidate, timeout_seconds=None, raise_on_error=True):
                    return 1.0
            except Exception as error:
                failure = error
        if failure is not None:
            raise failure
        return 0.0

    check(completion="so it is $\\frac{1}{2}$", ground_truth="0.5")
    return check


def load_reasoning_gym() -> Check:
    """``check(answer, task, entry) -> score``, with the verifier of the task's own dataset."""
    import reasoning_gym
    from reasoning_gym.factory import get_score_answer_fn

    guard_sympy()
    guard_reasoning_gym()
    verifier = functools.cache(get_score_answer_fn)

    def check(answer: str, task: str, entry: dict[str, Any]) -> float:
        return float(verifier(task)(answer=answer, entry=_with_tuples(task, entry)))

    sample = reasoning_gym.create_dataset("chain_sum", size=1, seed=0)[0]
    check(answer=sample["answer"], task="chain_sum", entry=sample)
    return check


CHECKS: dict[str, Callable[[], Check]] = {"math_verify": load_math_verify, "reasoning_gym": load_reasoning_gym}
"""Every check by the name a pool is asked for; a worker runs nothing else."""


def _with_tuples(task: str, entry: dict[str, Any]) -> dict[str, Any]:
    # JSON has no tuples, and these two compare the board that the answer spells with a tuple of tuples.
    if task in ("arc_agi", "rearc"):
        board = tuple(tuple(row) for row in entry["metadata"]["output"])
        return {**entry, "metadata": {**entry["metadata"], "output": board}}
    return entry


def _as_latex(ground_truth: str) -> str:
    # Without an environment math-verify finds only plain numbers: \sqrt{2} would be no ground truth at all.
    if "\\boxed" in ground_truth or ground_truth.count("$") >= 2:
        return ground_truth
    return f"\\boxed{{{ground_truth}}}"
