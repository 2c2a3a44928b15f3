"""Trained and generated tokens per second of one model on one device, each beside its roofline."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from r2vpo.llm.bench_logprob import device_peak_mib
from r2vpo.llm.bench_roofline import ModelCost, Roofline, wait_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STEPS = 4
"""Optimizer steps per training measurement; the entropy is measured in the first, as in training."""


@dataclass(frozen=True)
class Subject:
    """What is measured, and where."""

    model: PreTrainedModel
    eos: int
    """A token that ends completions."""
    device: str
    dtype: str
    """Of the trained weights."""
    rooflines: dict[str, Roofline]
    """By dtype of the arithmetic."""

    @property
    def vocabulary(self) -> int:
        """Entries of the output layer."""
        return len(self.model.get_output_embeddings().weight)


@dataclass(frozen=True)
class Work:
    """What one timed run did."""

    tokens: int
    least_seconds: float
    """On the roofline."""
    flops: float | None = None


def training_case(subject: Subject, tokens: int, rows: int, micro_batch_tokens: int, repeats: int) -> dict[str, Any]:
    """Updates of the learner: forward, backward and AdamW on random sequences.

    Args:
        subject: Model and device.
        tokens: Of each sequence, an eighth of it prompt.
        rows: Sequences of an optimizer step.
        micro_batch_tokens: Most tokens scored at once.
        repeats: Timed updates of :data:`STEPS` steps, after one that is not.
    """
    from r2vpo.llm.distributed import AcceleratedProcesses
    from r2vpo.llm.learner import TokenLearner
    from r2vpo.llm.methods import resolve_config
    from r2vpo.llm.token_policy import TokenPolicy

    sizes = {"prompts_per_iteration": STEPS * rows, "group_size": 2, "minibatch_size": rows}
    config = resolve_config({"method": "grpo", "model": "", "tokens_per_micro_batch": micro_batch_tokens, **sizes})
    policy = TokenPolicy(subject.model)
    learner = TokenLearner(policy, config, torch.Generator(), AcceleratedProcesses(), pad=subject.eos)
    half = learner.half_precision or subject.dtype == "bfloat16"
    limits = subject.rooflines["bfloat16" if half else "float32"]
    cost, weight_bytes = ModelCost.of(subject.model), getattr(torch, subject.dtype).itemsize
    prompt = tokens // 8
    flops = rows * cost.training_flops(tokens, tokens - prompt)
    least = limits.seconds(flops, cost.training_traffic(weight_bytes))
    least += cost.optimizer_traffic(weight_bytes) / limits.bandwidth
    iteration = random_iteration(STEPS * rows, prompt, tokens - prompt, subject.vocabulary)

    def run() -> Work:
        learner.update(iteration, 1e-6)
        return Work(STEPS * rows * tokens, STEPS * least, STEPS * flops)

    run()
    return timed(run, "trained tokens/s, prompts included", subject.device, repeats)


def generation_case(
    subject: Subject, kind: str, tokens: int, completions: int, repeats: int, **options: Any
) -> dict[str, Any]:
    """Completions of an engine, sampled side by side.

    Args:
        subject: Model and device.
        kind: See :func:`r2vpo.llm.engines.make_engine`.
        tokens: Most of prompt and completion together, an eighth of it prompt.
        completions: Each of a random prompt of its own.
        repeats: Timed rounds, after one of a few tokens that is not.
        options: For the engine; ``dtype`` says in what it computes where that is not the trained weights'.
    """
    from r2vpo.llm.engines import make_engine
    from r2vpo.llm.rollout import Sampling

    prompt, dtype = tokens // 8, options.get("dtype", subject.dtype)
    limits, cost = subject.rooflines[dtype], ModelCost.of(subject.model)
    tokenizer: Any = SimpleNamespace(eos_token_id=subject.eos)
    engine, _ = make_engine(kind, subject.model, tokenizer, **options)
    prompts = torch.randint(1, subject.vocabulary, (completions, prompt)).tolist()

    def run(most: int = tokens - prompt) -> Work:
        made = engine.generate(prompts, 1, Sampling(most), range(completions))
        lengths = [len(completion.tokens) for completion in made]
        least = cost.generation_seconds(limits, prompt, lengths, getattr(torch, dtype).itemsize)
        return Work(sum(lengths), least)

    try:
        run(min(16, tokens - prompt))
        return timed(run, "generated tokens/s", subject.device, repeats)
    finally:
        engine.close()


def timed(run: Callable[[], Work], unit: str, device: str, repeats: int) -> dict[str, Any]:
    """Tokens per second of some runs beside what the roofline allows, and the peak memory over them."""
    device_peak_mib(device, reset=True)
    runs = []
    for _ in range(repeats):
        wait_for(device)
        started = time.perf_counter()
        work = run()
        wait_for(device)
        seconds = time.perf_counter() - started
        entry = {"ours": work.tokens / seconds, "peer": work.tokens / work.least_seconds}
        runs.append(entry if work.flops is None else {**entry, "flops_per_second": work.flops / seconds})
    case = case_of_runs(runs, unit, "roofline")
    if "flops_per_second" in runs[0]:
        case["flops_per_second"] = statistics.median(entry["flops_per_second"] for entry in runs)
    return {**case, "peak_mib": device_peak_mib(device)}


def case_of_runs(runs: Sequence[dict[str, float]], unit: str, peer_name: str) -> dict[str, Any]:
    """Medians of ``ours`` and ``peer``, and their ratio run by run, in the layout of a case."""
    runs = [{**run, "ratio": run["ours"] / run["peer"]} for run in runs]
    ratios = [run["ratio"] for run in runs]
    middle = {key: statistics.median(run[key] for run in runs) for key in ("ours", "peer", "ratio")}
    extremes = {"ratio_min": min(ratios), "ratio_max": max(ratios)}
    return {**middle, **extremes, "unit": unit, "peer_name": peer_name, "runs": runs}


def random_iteration(count: int, prompt: int, completion: int, vocabulary: int) -> dict[str, Tensor]:
    """What :func:`r2vpo.llm.experience.pack` lays out: random tokens, uniform log-probs, advantages of both signs."""
    ends = torch.arange(1, count + 1)
    return {
        "prompt_tokens": torch.randint(1, vocabulary, (count * prompt,), dtype=torch.int32),
        "prompt_ends": ends * prompt,
        "prompt_index": ends - 1,
        "tokens": torch.randint(1, vocabulary, (count * completion,), dtype=torch.int32),
        "old_log_probs": torch.full((count * completion,), -math.log(vocabulary)),
        "ends": ends * completion,
        "advantage": torch.where(ends % 2 == 0, 1.0, -1.0),
    }
