"""From verified completions to the figures of an evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from r2vpo.errors import NoVerdicts
from r2vpo.llm.evaluation.completions import ERRORS, Line
from r2vpo.llm.evaluation.protocol import EvaluationProtocol
from r2vpo.llm.rewards.watch import unjudged
from r2vpo.runs.stats import bootstrap_interval


@dataclass(frozen=True)
class Estimate:
    """A mean over problems with its 95 % bootstrap interval over problems."""

    value: float | None
    """None when no problem counts."""
    low: float | None
    high: float | None
    problems: int
    """Problems the mean is over."""


def pass_at_k(samples: int, solved: int, k: int) -> float:
    """Unbiased probability that at least one of ``k`` answers drawn without replacement is right.

    ``1 - C(n - c, k) / C(n, k)`` (arXiv 2107.03374, Eq. 1) as ``1 - prod_{i=n-c+1}^{n} (1 - k / i)``, summed as
    logarithms: no binomial coefficient overflows, and a value near 0 keeps its digits. With k = 1 it is c / n.

    Args:
        samples: Answers sampled, n.
        solved: Right ones among them, c.
        k: At most ``samples``.

    Raises:
        ValueError: Counts for which it is not defined.
    """
    if not 0 <= solved <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@k needs 0 <= solved <= samples and 1 <= k <= samples, got {solved=}, {samples=}, {k=}")
    if samples - solved < k:
        return 1.0
    return float(-np.expm1(np.log1p(-k / np.arange(samples - solved + 1, samples + 1)).sum()))


def estimate_pass_at_k(samples: Sequence[int], solved: Sequence[int], k: int) -> Estimate:
    """Mean pass@k over problems; problems with fewer than ``k`` answers are left out.

    Args:
        samples: Answers with a verdict, ``[problems]``.
        solved: Right ones among them, ``[problems]``.
        k: Answers drawn.
    """
    return estimate_mean([pass_at_k(n, c, k) for n, c in zip(samples, solved, strict=True) if n >= k])


def estimate_mean(values: Sequence[float]) -> Estimate:
    """Mean of one value a problem, with its interval; a point when all values are equal."""
    if not len(values):
        return Estimate(None, None, None, 0)
    low, high = bootstrap_interval(values, np.mean)
    return Estimate(float(np.mean(values)), low, high, len(values))


@dataclass(frozen=True)
class EvaluationResult:
    """One model on one benchmark."""

    problems: int
    samples: int
    pass_at_k: dict[int, Estimate]
    """By k; problems whose answers have fewer than k verdicts are left out."""
    greedy_accuracy: Estimate | None
    """None where no greedy answers were asked for."""
    excluded: int
    """Completions without a verdict; they count neither as right nor as wrong."""
    excluded_by_function: dict[str, int]
    reward_errors: dict[str, str]
    """What reward functions raised at last, by function."""
    mean_tokens: float | None
    """Tokens of a completion: of the sampled ones, or of the greedy ones where none were sampled."""
    cut_off: float | None
    """Fraction of those completions that reached ``max_tokens``."""
    tokens_per_second: float | None
    """Generated tokens, over the time that generating took."""
    generate_seconds: float
    verify_seconds: float

    def as_dict(self) -> dict[str, Any]:
        """As JSON: pass@k becomes ``pass_at_1`` and so on."""
        values = asdict(self)
        rates = {f"pass_at_{k}": estimate for k, estimate in values.pop("pass_at_k").items()}
        return rates | values


@dataclass
class Tally:
    """Counts over problems, filled group by group."""

    protocol: EvaluationProtocol
    verdicts: list[int] = field(default_factory=list)
    """Sampled answers with a verdict, by problem."""
    solved: list[int] = field(default_factory=list)
    """Right ones among them."""
    greedy: list[float] = field(default_factory=list)
    """1 or 0 for each greedy answer with a verdict."""
    excluded: int = 0
    excluded_by_function: Counter[str] = field(default_factory=Counter)
    reward_errors: dict[str, str] = field(default_factory=dict)
    completions: int = 0
    lengths: list[int] = field(default_factory=list)
    cut: int = 0
    all_tokens: int = 0
    generate_seconds: float = 0.0
    verify_seconds: float = 0.0

    def add(self, group: Sequence[Line]) -> None:
        """Count the lines of one problem."""
        for line in group:
            self.completions += 1
            self.excluded += line["reward"] is None
            self.reward_errors.update(line.get(ERRORS, {}))
            self.excluded_by_function.update(name for name, value in line["verdicts"].items() if value is None)
            self.all_tokens += line["tokens"]
            self.generate_seconds += line["generate_seconds"]
            self.verify_seconds += line["verify_seconds"]
        sampled = [line for line in group if line["sample"] is not None]
        greedy = [line for line in group if line["sample"] is None]
        self.verdicts.append(sum(line["reward"] is not None for line in sampled))
        self.solved.append(sum(self._right(line) for line in sampled))
        self.greedy += [float(self._right(line)) for line in greedy if line["reward"] is not None]
        measured = sampled or greedy
        self.lengths += [line["tokens"] for line in measured]
        self.cut += sum(not line["finished"] for line in measured)

    def unjudged(self, group: Sequence[Line]) -> bool:
        """Whether the lines of a problem are to be judged anew: rewards raised, or nothing counted has a verdict."""
        return self.completions == self.excluded or any(ERRORS in line for line in group)

    def require_verdicts(self) -> None:
        """Raise NoVerdicts where there are completions and none of them has a verdict."""
        if self.completions and self.completions == self.excluded:
            story = unjudged(self.excluded_by_function, self.completions, self.reward_errors)
            raise NoVerdicts(f"no answer had a reward: {story}")

    @property
    def pass_rate(self) -> float | None:
        """Right answers over answers with a verdict."""
        if self.protocol.samples:
            return sum(self.solved) / sum(self.verdicts) if sum(self.verdicts) else None
        return sum(self.greedy) / len(self.greedy) if self.greedy else None

    @property
    def tokens_per_second(self) -> float | None:
        """Speed of generating."""
        return self.all_tokens / self.generate_seconds if self.generate_seconds else None

    def result(self) -> EvaluationResult:
        """The counts as estimates."""
        ks = self.protocol.k if self.protocol.samples else ()
        return EvaluationResult(
            problems=len(self.verdicts),
            samples=self.protocol.samples,
            pass_at_k={k: estimate_pass_at_k(self.verdicts, self.solved, k) for k in ks},
            greedy_accuracy=estimate_mean(self.greedy) if self.protocol.greedy else None,
            excluded=self.excluded,
            excluded_by_function={name: count for name, count in self.excluded_by_function.items() if count},
            reward_errors=dict(self.reward_errors),
            mean_tokens=sum(self.lengths) / len(self.lengths) if self.lengths else None,
            cut_off=self.cut / len(self.lengths) if self.lengths else None,
            tokens_per_second=self.tokens_per_second,
            generate_seconds=self.generate_seconds,
            verify_seconds=self.verify_seconds,
        )

    def _right(self, line: Line) -> bool:
        return line["reward"] is not None and line["reward"] > self.protocol.solved_above
