"""The collecting half of an iteration: problems in, verified completions with advantages out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from r2vpo.advantages import group_relative_advantages
from r2vpo.errors import RolloutError
from r2vpo.llm.config import LLMConfig
from r2vpo.llm.data.prompts import Problem, PromptStream
from r2vpo.llm.distributed import AcceleratedProcesses
from r2vpo.llm.engines.base import Completion, RolloutEngine, Sampling
from r2vpo.llm.experience import pack

if TYPE_CHECKING:
    from r2vpo.llm.rewards.scoring import RewardBatch


def overlong_penalty(lengths: NDArray[np.integer], max_tokens: int, width: int) -> NDArray[np.float64]:
    """Soft punishment of long answers (DAPO, arXiv 2503.14476, Eq. 13).

    0 up to ``max_tokens - width`` tokens, from there linearly down to -1 at ``max_tokens``. A width of 0 punishes
    nothing.

    Args:
        lengths: Tokens of each completion, ``[B]``.
        max_tokens: Where completions are cut.
        width: Tokens over which the punishment grows.

    Returns:
        What is added to the rewards, ``[B]``.
    """
    if width == 0:
        return np.zeros(len(lengths))
    return np.clip((max_tokens - width - lengths) / width, -1.0, 0.0)


Scorer = Callable[[Sequence[Problem], Sequence[str]], "RewardBatch"]
"""Problems and answers, one each, to rewards."""


@dataclass
class Group:
    """A problem and the completions sampled for it."""

    problem: Problem
    completions: list[Completion]
    rewards: NDArray[np.float64]
    """``[G]``; NaN where there is no verdict."""
    excluded: dict[str, int] = field(default_factory=dict)
    """Missing verdicts by reward function."""

    @property
    def mixed(self) -> bool:
        """Whether its rewards differ, so that there is something to learn."""
        known = self.rewards[~np.isnan(self.rewards)]
        return len(known) > 1 and bool((known != known[0]).any())


class Collector:
    """Samples and verifies one iteration after another.

    Args:
        engine: Generates.
        stream: Deals the problems; the same in every process.
        score: Verifies the completions of this process.
        decode: Token ids to text.
        config: Settings of the run.
        processes: Each generates for its share of the problems; all of them get everything.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        stream: PromptStream,
        score: Scorer,
        decode: Callable[[Sequence[int]], str],
        config: LLMConfig,
        processes: AcceleratedProcesses,
    ) -> None:
        self.engine, self.stream, self.score, self.decode = engine, stream, score, decode
        self.config, self.processes = config, processes
        self.sampling = Sampling(config.max_completion_tokens, config.temperature, config.top_p)
        self.generated = 0
        """Completions generated so far, those that dynamic sampling threw away included."""

    def collect(self) -> tuple[list[Group], dict[str, float]]:
        """Groups of one iteration, and how long generating and verifying took, in seconds.

        With dynamic sampling, groups without mixed rewards are replaced until there are enough or the rounds are
        used up.
        """
        wanted = self.config.prompts_per_iteration
        seconds = {"generate_seconds": 0.0, "verify_seconds": 0.0}
        groups = self._round(wanted, seconds)
        if not self.config.dynamic_sampling:
            return groups, seconds
        kept = [group for group in groups if group.mixed]
        for _ in range(self.config.max_sampling_rounds - 1):
            if len(kept) >= wanted:
                break
            kept += [group for group in self._round(wanted, seconds) if group.mixed]
        return kept[:wanted], seconds

    def _round(self, count: int, seconds: dict[str, float]) -> list[Group]:
        problems = self.stream.take(count)
        size = self.config.group_size
        seeds = np.random.Philox(key=[self.config.seed, self.generated]).random_raw(count * size) >> np.uint64(1)
        self.generated += count * size
        mine = self.processes.share(range(count))
        own = [problems[i] for i in mine]
        started = time.perf_counter()
        own_seeds = [int(seed) for i in mine for seed in seeds[i * size : (i + 1) * size]]
        completions = self.engine.generate([problem.tokens for problem in own], size, self.sampling, own_seeds)
        _check(completions, len(own) * size)
        generated = time.perf_counter()
        groups = self._verified(own, completions)
        seconds["generate_seconds"] += generated - started
        seconds["verify_seconds"] += time.perf_counter() - generated
        return self.processes.gather(groups)

    def _verified(self, problems: Sequence[Problem], completions: Sequence[Completion]) -> list[Group]:
        size = self.config.group_size
        texts = [self.decode(completion.tokens.tolist()) for completion in completions]
        batch = self.score([problem for problem in problems for _ in range(size)], texts)
        lengths = np.array([len(completion.tokens) for completion in completions])
        penalty = overlong_penalty(lengths, self.config.max_completion_tokens, self.config.overlong_tokens)
        rewards = np.where(batch.valid, batch.total + penalty, np.nan)
        groups = [
            Group(problem, list(completions[i * size : (i + 1) * size]), rewards[i * size : (i + 1) * size])
            for i, problem in enumerate(problems)
        ]
        if groups:
            groups[0].excluded = dict(batch.excluded)
        return groups


def to_iteration(groups: Sequence[Group], config: LLMConfig) -> dict[str, Tensor] | None:
    """Group-relative advantages, laid out for the buffer; completions without a verdict are left out.

    Returns:
        See :func:`r2vpo.llm.experience.pack`; None when nothing is left.
    """
    index, completions, advantages = [], [], []
    for i, group in enumerate(groups):
        valid = ~np.isnan(group.rewards)
        values = group_relative_advantages(
            np.nan_to_num(group.rewards), config.group_size, valid, scale=config.advantage_scale == "group"
        )
        for completion, value, known in zip(group.completions, values, valid, strict=True):
            if known and (config.keep == "all" or value != 0.0):
                index.append(i)
                completions.append(completion)
                advantages.append(value)
    if not completions:
        return None
    return pack([group.problem.tokens for group in groups], index, completions, np.array(advantages))


def describe(groups: Sequence[Group]) -> dict[str, Any]:
    """Figures of an iteration for the metrics: reward, mixed groups, lengths, exclusions."""
    rewards = np.concatenate([group.rewards for group in groups]) if groups else np.zeros(0)
    known = rewards[~np.isnan(rewards)]
    completions = [completion for group in groups for completion in group.completions]
    lengths = [len(completion.tokens) for completion in completions]
    excluded: dict[str, int] = {}
    for group in groups:
        for name, number in group.excluded.items():
            excluded[name] = excluded.get(name, 0) + number
    return {
        "reward": float(known.mean()) if len(known) else None,
        "reward_std": float(known.std()) if len(known) else None,
        "mixed_groups": sum(group.mixed for group in groups) / len(groups) if groups else 0.0,
        "excluded": int(np.isnan(rewards).sum()),
        "excluded_by_function": excluded,
        "completion_tokens_mean": float(np.mean(lengths)) if lengths else 0.0,
        "generated_tokens": int(np.sum(lengths)),
        "truncated_fraction": float(np.mean([not c.finished for c in completions])) if completions else 0.0,
    }


def _check(completions: Sequence[Completion], expected: int) -> None:
    if len(completions) != expected:
        raise RolloutError(f"the engine returned {len(completions)} completions, asked for {expected}")
    broken = sum(not np.isfinite(completion.log_probs).all() for completion in completions)
    if broken:
        raise RolloutError(f"the engine returned log-probs that are not finite in {broken} of {expected} completions")
