"""The collecting half of an iteration: problems in, verified completions with advantages out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from r2vpo.advantages import group_relative_advantages
from r2vpo.errors import RolloutError
from r2vpo.llm.config import LLMConfig
from r2vpo.llm.data.problems import Problem
from r2vpo.llm.data.rows import fingerprint
from r2vpo.llm.distributed import AcceleratedProcesses
from r2vpo.llm.engines.base import Completion, RolloutEngine, Sampling
from r2vpo.llm.experience import pack
from r2vpo.llm.rewards.calling import RewardFunction, TrainerState
from r2vpo.llm.rewards.scoring import RewardBatch, score_rows
from r2vpo.llm.rewards.watch import VerdictWatch


class PromptStream:
    """Deals problems in the order of one shuffled pass after another; the order depends on seed and pass alone.

    Args:
        problems: At least one.
        seed: Of the shuffles.
    """

    def __init__(self, problems: Sequence[Problem], seed: int) -> None:
        self.problems, self.seed = problems, seed
        self.fingerprint = fingerprint(problem.row for problem in problems)
        """Of the rows, by which a resumed run finds out that its dataset has changed."""
        self.dealt = 0
        self._pass = -1
        self._order: list[int] = []

    def take(self, count: int) -> list[Problem]:
        """The next ``count`` problems."""
        taken = []
        for _ in range(count):
            which, place = divmod(self.dealt, len(self.problems))
            if which != self._pass:
                self._pass = which
                self._order = np.random.default_rng([self.seed, which]).permutation(len(self.problems)).tolist()
            taken.append(self.problems[self._order[place]])
            self.dealt += 1
        return taken


@dataclass
class Group:
    """A problem and the completions sampled for it."""

    problem: Problem
    completions: list[Completion]
    rewards: NDArray[np.float64]
    """``[G]``; NaN where there is no verdict."""
    excluded: dict[str, int] = field(default_factory=dict)
    """Missing verdicts by reward function."""
    errors: dict[str, str] = field(default_factory=dict)
    """What reward functions raised."""
    logged: dict[str, list[float]] = field(default_factory=dict)
    """What they gave to ``log_metric``."""
    extra: dict[str, list[Any]] = field(default_factory=dict)
    """What they gave to ``log_extra``, ``[G]`` each."""

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
        functions: Reward functions by name; they verify the completions of this process.
        decode: Token ids to text.
        config: Settings of the run.
        processes: Each generates for its share of the problems; all of them get everything.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        stream: PromptStream,
        functions: Sequence[tuple[str, RewardFunction]],
        decode: Callable[[Sequence[int]], str],
        config: LLMConfig,
        processes: AcceleratedProcesses,
    ) -> None:
        self.engine, self.stream, self.functions, self.decode = engine, stream, functions, decode
        self.config, self.processes = config, processes
        self.sampling = Sampling(config.max_completion_tokens, config.temperature)
        self.size = config.iteration_size
        """Completions of an iteration."""
        self.generated = 0
        """Completions generated so far, those that dynamic sampling threw away included."""
        self.state = TrainerState(max_steps=-(-config.total_rollouts // self.size))
        """What the reward functions are told about the run."""
        self.watch = VerdictWatch()

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

    def verify(self, problems: Sequence[Problem], completions: Sequence[Completion]) -> RewardBatch:
        """Rewards of completions, one of each problem."""
        texts = [self.decode(completion.tokens.tolist()) for completion in completions]
        weights = self.config.reward_weights or (1.0,) * len(self.functions)
        rows = [problem.row for problem in problems]
        tokens = [completion.tokens.tolist() for completion in completions]
        told = {"completion_ids": tokens, "trainer_state": self.state}
        return score_rows(self.functions, weights, rows, self.config.prompt_column, texts, **told)

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
        groups = self.processes.gather(groups)
        for group in groups:
            self.watch.add(int((~np.isnan(group.rewards)).sum()), len(group.rewards), group.excluded, group.errors)
        return groups

    def _verified(self, problems: Sequence[Problem], completions: Sequence[Completion]) -> list[Group]:
        size = self.config.group_size
        batch = self.verify([problem for problem in problems for _ in range(size)], completions)
        lengths = np.array([len(completion.tokens) for completion in completions])
        penalty = overlong_penalty(lengths, self.config.max_completion_tokens, self.config.overlong_tokens)
        rewards = np.where(batch.valid, batch.total + penalty, np.nan)
        groups = [
            Group(problem, list(completions[own]), rewards[own], extra={k: v[own] for k, v in batch.extra.items()})
            for i, problem in enumerate(problems)
            for own in [slice(i * size, (i + 1) * size)]
        ]
        if groups:
            groups[0].excluded, groups[0].errors = dict(batch.excluded), dict(batch.errors)
            groups[0].logged = batch.logged
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
    logged = {name: [v for g in groups for v in g.logged.get(name, ())] for group in groups for name in group.logged}
    errors = {name: text for group in groups for name, text in group.errors.items()}
    return {
        "reward": float(known.mean()) if len(known) else None,
        "reward_std": float(known.std()) if len(known) else None,
        "mixed_groups": sum(group.mixed for group in groups) / len(groups) if groups else 0.0,
        "excluded": int(np.isnan(rewards).sum()),
        "excluded_by_function": excluded,
        "completion_tokens_mean": float(np.mean(lengths)) if lengths else 0.0,
        "generated_tokens": int(np.sum(lengths)),
        "truncated_fraction": float(np.mean([not c.finished for c in completions])) if completions else 0.0,
        **({"reward_errors": errors} if errors else {}),
        **({"reward_metrics": {name: float(np.mean(values)) for name, values in logged.items()}} if logged else {}),
    }


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


def _check(completions: Sequence[Completion], expected: int) -> None:
    if len(completions) != expected:
        raise RolloutError(f"the engine returned {len(completions)} completions, asked for {expected}")
    broken = sum(not np.isfinite(completion.log_probs).all() for completion in completions)
    if broken:
        raise RolloutError(f"the engine returned log-probs that are not finite in {broken} of {expected} completions")
