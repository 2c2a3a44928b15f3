"""Completions between collection and update: stored flat, unpacked into samples, cut into batches and padded.

In the buffer a sampled token takes 8 bytes, and a token of a prompt 4, once for the whole group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from r2vpo.llm.engines.base import Completion
from r2vpo.replay import ReplayBuffer

SMALL_SHARE = 0.25
"""A batch that fills this much of the budget may end early, where the sequences get much shorter."""
MUCH_SHORTER = 0.8
"""Relative to the longest of the batch."""


@dataclass(frozen=True)
class Sample:
    """One completion with its prompt, as the trainer sees it."""

    prompt: Tensor
    """Token ids ``[P]``."""
    tokens: Tensor
    """Sampled token ids ``[T]``."""
    old_log_probs: Tensor
    """Log-probs under the behaviour policy ``[T]``."""
    advantage: float
    age: int
    """Iterations since it was sampled."""
    weights: Tensor | None = None
    """Of each token's advantage, ``[T]``; None is 1 everywhere."""

    def __len__(self) -> int:
        """Tokens of prompt and completion."""
        return len(self.prompt) + len(self.tokens)


def pack(
    prompts: Sequence[Sequence[int]],
    prompt_index: Sequence[int],
    completions: Sequence[Completion],
    advantages: NDArray[np.floating],
) -> dict[str, Tensor]:
    """Lay an iteration out in a few tensors for :class:`r2vpo.replay.ReplayBuffer`.

    Args:
        prompts: Token ids of each prompt.
        prompt_index: Which prompt each completion answers, ``[B]``.
        completions: ``B`` of them.
        advantages: ``[B]``.

    Returns:
        ``prompt_tokens`` int32, ``prompt_ends`` int64 ``[P]``, ``prompt_index`` int64 ``[B]``, ``tokens`` int32,
        ``old_log_probs`` float32, ``ends`` int64 ``[B]``, ``advantage`` float32 ``[B]``.
    """
    return {
        "prompt_tokens": torch.tensor([token for prompt in prompts for token in prompt], dtype=torch.int32),
        "prompt_ends": torch.tensor(np.cumsum([len(prompt) for prompt in prompts]), dtype=torch.int64),
        "prompt_index": torch.tensor(prompt_index, dtype=torch.int64),
        "tokens": torch.from_numpy(np.concatenate([c.tokens for c in completions]).astype(np.int32)),
        "old_log_probs": torch.from_numpy(np.concatenate([c.log_probs for c in completions]).astype(np.float32)),
        "ends": torch.tensor(np.cumsum([len(c.tokens) for c in completions]), dtype=torch.int64),
        "advantage": torch.tensor(advantages, dtype=torch.float32),
    }


def unpack(iteration: dict[str, Tensor], age: int) -> list[Sample]:
    """The samples of what :func:`pack` returned; their tensors are views."""
    prompts = iteration["prompt_tokens"].split(_lengths(iteration["prompt_ends"]))
    lengths = _lengths(iteration["ends"])
    columns = zip(
        iteration["prompt_index"].tolist(),
        iteration["tokens"].split(lengths),
        iteration["old_log_probs"].split(lengths),
        iteration["advantage"].tolist(),
        strict=True,
    )
    return [Sample(prompts[index], tokens, old, advantage, age) for index, tokens, old, advantage in columns]


def all_samples(buffer: ReplayBuffer) -> list[Sample]:
    """Every sample of a buffer, in the order of its positions."""
    newest = len(buffer.iterations) - 1
    return [sample for k, iteration in enumerate(buffer.iterations) for sample in unpack(iteration, newest - k)]


def collate(samples: Sequence[Sample], pad: int, weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """Right-padded batch of samples.

    Args:
        samples: ``B`` of them.
        pad: Token id that fills the rest.
        weights: Weight of each sample's tokens in the loss, ``[B]``; None leaves ``weight`` out.

    Returns:
        ``input_ids``, ``attention_mask``, ``completion_mask``, ``old_log_prob``, ``advantage``, ``age`` and, where
        given, ``weight``, each ``[B, T]``.
    """
    lengths = torch.tensor([len(sample) for sample in samples])[:, None]
    starts = torch.tensor([len(sample.prompt) for sample in samples])[:, None]
    column = torch.arange(int(lengths.max()))[None]
    filled = column < lengths
    completion = filled & (column >= starts)
    tokens = torch.cat([part for sample in samples for part in (sample.prompt, sample.tokens)])
    input_ids = torch.full(filled.shape, pad, dtype=torch.int64)
    input_ids[filled] = tokens.to(torch.int64)
    old_log_prob = torch.zeros(filled.shape)
    old_log_prob[completion] = torch.cat([sample.old_log_probs for sample in samples])
    per_sample = {"advantage": torch.tensor([sample.advantage for sample in samples])}
    if weights is not None:
        per_sample["weight"] = torch.tensor(weights, dtype=torch.float32)
    age = torch.tensor([sample.age for sample in samples])
    batch = {name: torch.where(completion, values[:, None], 0.0) for name, values in per_sample.items()}
    token_weights = [sample.weights for sample in samples if sample.weights is not None]
    if token_weights:
        batch["advantage"][completion] *= torch.cat(token_weights)
    return {
        "input_ids": input_ids,
        "attention_mask": filled.to(torch.int64),
        "completion_mask": completion,
        "old_log_prob": old_log_prob,
        "age": age[:, None].expand(filled.shape),
        **batch,
    }


def token_micro_batches(lengths: Sequence[int] | NDArray[np.integer], budget: int) -> list[NDArray[np.int64]]:
    """Cut sequences into batches whose padded size stays within a budget.

    Sequences of like length share a batch, so that padding is small; longest first, so that a run that lacks memory
    finds out at once. A sequence longer than the budget gets a batch to itself.

    Args:
        lengths: Tokens of each sequence, ``[n]``.
        budget: Most tokens per batch, padding included.

    Returns:
        Indices into ``lengths``, each exactly once.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    batches: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        end = start + max(1, budget // longest)
        enough = start + max(1, round(SMALL_SHARE * budget) // longest)
        shorter = np.flatnonzero(lengths[order[enough:end]] < MUCH_SHORTER * longest)
        if len(shorter):
            end = enough + int(shorter[0])
        batches.append(order[start:end])
        start = end
    return batches


def padding_fraction(lengths: Sequence[int] | NDArray[np.integer], batches: Sequence[NDArray[np.int64]]) -> float:
    """Share of the padded batches that is padding."""
    lengths = np.asarray(lengths)
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    return 1.0 - float(lengths.sum()) / padded if padded else 0.0


def _lengths(ends: Tensor) -> list[int]:
    return torch.diff(ends, prepend=ends.new_zeros(1)).tolist()
