"""Trained and generated tokens per second of one model on one device, each beside its roofline.

The roofline is what the device can do at best: the rate of a large matrix product and of a large copy, both measured
on it, and the arithmetic and traffic that the work cannot do without.
"""

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

from r2vpo.llm.bench.logprob import device_peak_mib
from r2vpo.llm.bench.turns import case_of_runs

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
    from r2vpo.llm.config import resolve_config
    from r2vpo.llm.distributed import AcceleratedProcesses
    from r2vpo.llm.learner import TokenLearner
    from r2vpo.llm.models.token_policy import TokenPolicy

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
    name = f"training, {rows} sequences of {tokens} tokens a step"
    return timed(name, run, "trained tokens/s, prompts included", subject.device, repeats)


def generation_case(
    subject: Subject, kind: str, tokens: int, completions: int, repeats: int, **options: Any
) -> dict[str, Any]:
    """Completions of an engine, sampled side by side.

    Args:
        subject: Model and device.
        kind: See :func:`r2vpo.llm.engines.choice.make_engine`.
        tokens: Most of prompt and completion together, an eighth of it prompt.
        completions: Each of a random prompt of its own.
        repeats: Timed rounds, after one of a few tokens that is not.
        options: For the engine; ``dtype`` says in what it computes where that is not the trained weights'.
    """
    from r2vpo.llm.engines.base import Sampling
    from r2vpo.llm.engines.choice import make_engine

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
        name = f"{kind} engine, {completions} completions up to {tokens} tokens with their prompt"
        return timed(name, run, "generated tokens/s", subject.device, repeats)
    finally:
        engine.close()


def timed(name: str, run: Callable[[], Work], unit: str, device: str, repeats: int) -> dict[str, Any]:
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
    case = case_of_runs(name, unit, "roofline", runs)
    if "flops_per_second" in runs[0]:
        case["flops_per_second"] = statistics.median(entry["flops_per_second"] for entry in runs)
    return {**case, "peak_mib": device_peak_mib(device)}


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


@dataclass(frozen=True)
class Roofline:
    """Limits of a device, measured on it."""

    flops: float
    """FLOP/s of a large square matrix product."""
    bandwidth: float
    """Bytes/s of a large copy, what is read and what is written together."""

    def seconds(self, flops: float, traffic: float) -> float:
        """Least time for that much arithmetic and so many bytes, the two overlapping perfectly."""
        return max(flops / self.flops, traffic / self.bandwidth)


def measure_roofline(device: str, dtype: torch.dtype, size: int | None = None, repeats: int = 5) -> Roofline:
    """Best of some large products and copies.

    Args:
        device: ``cpu`` or ``cuda``.
        dtype: Of the product.
        size: Rows and columns of the matrices, and their bytes are a 16th of the copy's. None takes 8192 on a GPU and
            1024 elsewhere.
        repeats: Of each, after one that is not counted.
    """
    size = size or (8192 if device == "cuda" else 1024)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    product = _best(lambda: a @ b, device, repeats)
    source = torch.empty(16 * size * size, dtype=torch.float32, device=device).zero_()
    target = torch.empty_like(source)
    copy = _best(lambda: target.copy_(source), device, repeats)
    return Roofline(2 * size**3 / product, 2 * source.numel() * source.element_size() / copy)


@dataclass(frozen=True)
class ModelCost:
    """Arithmetic and memory traffic of a decoder-only transformer. A multiplication and an addition are 2 FLOP."""

    parameters: int
    body: int
    """Parameters of the layers, all of which every token meets."""
    head: int
    """Entries of the output layer, ``V x H``."""
    layers: int
    attention_width: int
    """Query heads times their size."""
    cache_width: int
    """Keys and values of one token in one layer, in elements."""

    @classmethod
    def of(cls, model: PreTrainedModel) -> ModelCost:
        """From the weights and the config of a causal language model."""
        config = model.config.get_text_config()
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        cache_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        embedding, head = (f().weight for f in (model.get_input_embeddings, model.get_output_embeddings))
        tables = embedding.numel() + (0 if head is embedding else head.numel())
        parameters = sum(parameter.numel() for parameter in model.parameters())
        return cls(
            parameters,
            parameters - tables,
            head.numel(),
            config.num_hidden_layers,
            config.num_attention_heads * size,
            2 * cache_heads * size,
        )

    def training_flops(self, tokens: int, scored: int) -> float:
        """Forward and backward pass of one sequence: three times the forward pass, nothing counted that is recomputed.

        Args:
            tokens: Of prompt and completion.
            scored: Of the completion, which alone meet the output layer.
        """
        attention = 2 * self.layers * self.attention_width * tokens**2  # two products, causal: half of each
        return 3.0 * (2 * self.body * tokens + 2 * self.head * scored + attention)

    def training_traffic(self, weight_bytes: int) -> float:
        """Bytes of one forward and backward pass that no batch size saves: weights read twice, gradients written."""
        return 3.0 * self.parameters * weight_bytes

    def optimizer_traffic(self, weight_bytes: int) -> float:
        """Bytes of an AdamW step: weight, gradient and both moments read, weight and moments written."""
        return 7.0 * self.parameters * weight_bytes

    def generation_seconds(self, roofline: Roofline, prompt: int, lengths: Sequence[int], weight_bytes: int) -> float:
        """Least time to generate completions side by side, one token of each at a time; reading prompts left out.

        Args:
            roofline: Limits of the device.
            prompt: Tokens of each prompt.
            lengths: Tokens of each completion.
            weight_bytes: Of an element of weights and cache.
        """
        total = 0.0
        for step in range(max(lengths)):
            rows, context = sum(length > step for length in lengths), prompt + step
            attention = 4 * self.layers * self.attention_width * context
            flops = rows * (2 * (self.body + self.head) + attention)
            elements = self.body + self.head + rows * context * self.layers * self.cache_width
            total += roofline.seconds(flops, elements * weight_bytes)
        return total


def wait_for(device: str) -> None:
    """Until a GPU has done what was asked of it."""
    if device == "cuda":
        torch.cuda.synchronize()


def _best(work: Callable[[], object], device: str, repeats: int) -> float:
    work()
    times = []
    for _ in range(repeats):
        wait_for(device)
        started = time.perf_counter()
        work()
        wait_for(device)
        times.append(time.perf_counter() - started)
    return min(times)
