"""Between TRL's padded generation batches and :class:`r2vpo.replay.ReplayBuffer`: what is stored, what is drawn."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from trl.trainer.utils import pad

from r2vpo.errors import ConfigError
from r2vpo.replay import Iteration, ReplayBuffer, proximal_weights

_STORED = {
    "prompt_ids": ("left", torch.int32),
    "prompt_mask": ("left", torch.bool),
    "completion_ids": ("right", torch.int32),
    "completion_mask": ("right", torch.bool),
    "tool_mask": ("right", torch.bool),
    "old_per_token_logps": ("right", torch.float32),
}
"""Tensors ``[B, T]``: the side that is padded, and the type in the buffer."""

_NOT_REPLAYED = ("pixel_values", "image_grid_thw", "num_images", "token_type_ids", "mm_token_type_ids")


def to_iteration(batch: dict[str, Any]) -> Iteration:
    """Generation batch of one process in the form that the buffer keeps, on the CPU.

    Args:
        batch: From TRL's ``_generate_and_score_completions``, with ``old_per_token_logps``.

    Raises:
        ConfigError: It has images.
    """
    for name in _NOT_REPLAYED:
        if name in batch:
            raise ConfigError("train_dataset", name, "text only: images are not replayed")
    batch = {"tool_mask": torch.ones_like(batch["completion_mask"]), **batch}
    iteration = {name: batch[name].detach().to("cpu", dtype) for name, (_, dtype) in _STORED.items()}
    return {**iteration, "advantages": batch["advantages"].detach().to("cpu", torch.float32)}


def token_counts(buffer: ReplayBuffer) -> Tensor:
    """Tokens of every stored completion that count in the loss, int64 ``[len(buffer)]``."""
    return torch.cat([(i["completion_mask"] & i["tool_mask"]).sum(1) for i in buffer.iterations])


def collate(
    buffer: ReplayBuffer, positions: Tensor, pad_token: int, pad_to_multiple_of: int | None = None
) -> dict[str, Tensor]:
    """Samples of any iterations in TRL's layout, padded to the longest among them: prompts left, completions right.

    Args:
        buffer: Of iterations from :func:`to_iteration`.
        positions: From :meth:`~r2vpo.replay.ReplayBuffer.minibatches`, int64 ``[B]``.
        pad_token: Token id for padding.
        pad_to_multiple_of: As TRL's setting.

    Returns:
        TRL's ``prompt_ids``, ``prompt_mask``, ``completion_ids``, ``completion_mask``, ``tool_mask`` (int64),
        ``old_per_token_logps`` (float32), each ``[B, T]``, ``advantages`` ``[B]`` and ``age`` in iterations ``[B]``.
    """
    iterations, ends, ages = buffer.iterations, list(accumulate(buffer.sizes)), buffer.ages()
    rows: dict[str, list[Tensor]] = {name: [] for name in (*_STORED, "advantages")}
    for position in positions.tolist():
        k = bisect_right(ends, position)
        iteration, row = iterations[k], position - ends[k]  # negative: counted from the end of the iteration
        prompt = iteration["prompt_mask"][row]
        # TRL masks a truncated completion as a whole; one (masked) token of it keeps the batch from being empty.
        length = max(1, int(iteration["completion_mask"][row].sum()))
        for name, (side, _) in _STORED.items():
            values = iteration[name][row]
            rows[name].append(values[prompt] if side == "left" else values[:length])
        rows["advantages"].append(iteration["advantages"][row])
    batch = {"advantages": torch.stack(rows["advantages"]), "age": ages[positions]}
    for name, (side, dtype) in _STORED.items():
        fill = pad_token if name.endswith("_ids") else 0
        padded = pad(rows[name], padding_value=fill, padding_side=side, pad_to_multiple_of=pad_to_multiple_of)
        batch[name] = padded if dtype == torch.float32 else padded.long()
    return batch


def anchored(
    batch: dict[str, Tensor], positions: Tensor, proximal: Mapping[int, Tensor], pad_to_multiple_of: int | None = None
) -> dict[str, Tensor]:
    """The batch with its ratio 1 at the policy that the update starts from; see :func:`r2vpo.replay.proximal_weights`.

    Args:
        batch: From :func:`collate`.
        positions: Those of its samples.
        proximal: Log-probs under that policy by position, from :func:`unpadded`.
        pad_to_multiple_of: As in :func:`collate`.

    Returns:
        ``batch`` with other ``old_per_token_logps``, and ``advantage_weights`` ``[B, T]``.
    """
    rows = [proximal[position] for position in positions.tolist()]
    log_probs = pad(rows, padding_side="right", pad_to_multiple_of=pad_to_multiple_of)
    weights = proximal_weights(log_probs, batch["old_per_token_logps"])
    return {**batch, "old_per_token_logps": log_probs, "advantage_weights": weights}


def unpadded(log_probs: Tensor, batch: dict[str, Tensor]) -> list[Tensor]:
    """Rows of ``log_probs`` ``[B, T]`` on the CPU, each as long as :func:`collate` found its completion."""
    lengths = batch["completion_mask"].sum(1).clamp(min=1).tolist()
    return [row[:length].clone() for row, length in zip(log_probs.float().cpu(), lengths, strict=True)]
