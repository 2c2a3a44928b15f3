"""Accuracy on held-out problems during training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from r2vpo.llm.collection import Collector
from r2vpo.llm.prompt_stream import Problem
from r2vpo.llm.rollout import Sampling


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
    own = collector.processes.share(problems)
    sampling = Sampling(collector.config.max_completion_tokens, temperature, top_p)
    solved: list[float] = []
    if own:
        seeds = np.random.Philox(key=[collector.config.seed, 2**63]).random_raw(len(problems) * samples) >> np.uint64(1)
        first = collector.processes.share(range(len(problems)))[0] * samples
        own_seeds = [int(seed) for seed in seeds[first : first + len(own) * samples]]
        completions = collector.engine.generate([p.tokens for p in own], samples, sampling, own_seeds)
        texts = [collector.decode(completion.tokens.tolist()) for completion in completions]
        batch = collector.score([p for p in own for _ in range(samples)], texts)
        bar = collector.config.solved_above
        solved = [float(total > bar) for total, valid in zip(batch.total, batch.valid, strict=True) if valid]
    everywhere = collector.processes.gather(solved)
    return float(np.mean(everywhere)) if everywhere else None
