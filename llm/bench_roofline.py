"""What a device could do at best: measured arithmetic and bandwidth, and how much of both a language model needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


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
    import torch

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
        import torch

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
