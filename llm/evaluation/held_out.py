"""Accuracy on held-out problems, during a run and at its end."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from r2vpo.errors import NoVerdicts, R2VPOError
from r2vpo.llm.collection import Collector
from r2vpo.llm.data.problems import Problem
from r2vpo.llm.engines.base import Sampling
from r2vpo.llm.rewards.watch import unjudged
from r2vpo.llm.run import Run

EVAL_TEMPERATURE, EVAL_TOP_P = 0.6, 0.95
"""Sampling of the closing evaluation (arXiv 2601.03320, section 5.1)."""

_log = logging.getLogger(__name__)


@dataclass
class _Share:
    """What one process found out about its share of the problems."""

    solved: list[float] = field(default_factory=list)
    """1 or 0 for each answer with a verdict."""
    answers: int = 0
    missing: Mapping[str, int] = field(default_factory=dict)
    """Answers without a verdict, by reward function."""
    errors: Mapping[str, str] = field(default_factory=dict)
    """What reward functions raised."""
    failure: str | None = None


def accuracy(
    collector: Collector, problems: Sequence[Problem], samples: int = 1, temperature: float = 0.0, top_p: float = 1.0
) -> float | None:
    """Fraction of answers that solve their problem; answers without a verdict are left out.

    Args:
        collector: Its engine generates, its reward functions verify.
        problems: Held-out problems; shared out over the processes.
        samples: Answers to each.
        temperature: 0 takes the likeliest tokens.
        top_p: Nucleus.

    Returns:
        The fraction, or None when no answer has a verdict.
    """
    return _fraction(_shares(collector, problems, samples, temperature, top_p))


def judged_accuracy(
    collector: Collector, problems: Sequence[Problem], samples: int = 1, temperature: float = 0.0, top_p: float = 1.0
) -> float:
    """As :func:`accuracy`.

    Raises:
        NoVerdicts: No answer has a verdict; the message names the functions that gave none.
    """
    shares = _shares(collector, problems, samples, temperature, top_p)
    fraction = _fraction(shares)
    if fraction is None:
        missing: Counter[str] = sum((Counter(share.missing) for share in shares), Counter())
        errors = {name: text for share in shares for name, text in share.errors.items()}
        answers = sum(share.answers for share in shares)
        raise NoVerdicts(f"no answer to the held-out problems had a reward: {unjudged(missing, answers, errors)}")
    return fraction


def point_of_the_curve(run: Run) -> dict[str, float | None]:
    """What an evaluation between updates finds: ``accuracy_greedy`` and, where asked for, ``pass_at_1``."""
    point = {"accuracy_greedy": accuracy(run.collector, run.eval_problems)}
    if samples := run.config.eval_samples_on_the_way:
        point["pass_at_1"] = accuracy(run.collector, run.eval_problems, samples, EVAL_TEMPERATURE, EVAL_TOP_P)
    return point


def point_on_the_way(run: Run) -> dict[str, float | None]:
    """The same between two iterations; where it cannot be had, that is logged and training goes on."""
    try:
        point = point_of_the_curve(run)
    except Exception as error:  # of a reward or an engine; a checkpoint is worth more than a point of a curve
        _log.warning("no held-out accuracy at rollout %d: %s: %s", run.rollouts, type(error).__name__, error)
        return {"accuracy_greedy": None}
    if point["accuracy_greedy"] is not None:
        run.last_accuracy = point["accuracy_greedy"]
    return point


def _fraction(shares: Sequence[_Share]) -> float | None:
    solved = [value for share in shares for value in share.solved]
    return float(np.mean(solved)) if solved else None


def _shares(
    collector: Collector, problems: Sequence[Problem], samples: int, temperature: float, top_p: float
) -> list[_Share]:
    """Of every process; where one of them failed, all of them raise, so that none waits for it."""
    failure: Exception | None = None
    try:
        share = _own_share(
            collector, problems, samples, Sampling(collector.config.max_completion_tokens, temperature, top_p)
        )
    except Exception as error:
        failure, share = error, _Share(failure=f"{type(error).__name__}: {error}")
    shares = collector.processes.gather([share])
    if failure is not None:
        raise failure
    for rank, other in enumerate(shares):
        if other.failure is not None:
            raise R2VPOError(f"the evaluation failed in process {rank}: {other.failure}")
    return shares


def _own_share(collector: Collector, problems: Sequence[Problem], samples: int, sampling: Sampling) -> _Share:
    own = collector.processes.share(problems)
    if not own:
        return _Share()
    seeds = np.random.Philox(key=[collector.config.seed, 2**63]).random_raw(len(problems) * samples) >> np.uint64(1)
    first = collector.processes.share(range(len(problems)))[0] * samples
    own_seeds = [int(seed) for seed in seeds[first : first + len(own) * samples]]
    completions = collector.engine.generate([p.tokens for p in own], samples, sampling, own_seeds)
    batch = collector.verify([p for p in own for _ in range(samples)], completions)
    bar = collector.config.solved_above
    solved = [float(total > bar) for total, valid in zip(batch.total, batch.valid, strict=True) if valid]
    return _Share(solved, len(completions), batch.excluded, batch.errors)
