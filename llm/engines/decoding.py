"""Sampling, one token at a time, from uniform numbers that belong to each completion alone."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from r2vpo.errors import RolloutError
from r2vpo.llm.engines.base import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COMPACT_BELOW = 0.75
"""Finished rows leave the batch once fewer than this fraction of it is alive: moving the cache costs about as much as
one step of attention reading it, so waiting for half of the rows wastes more than it saves."""


@dataclass(frozen=True)
class Decoded:
    """Completions of one batch; what lies beyond ``lengths`` is meaningless."""

    tokens: NDArray[np.int32]
    """``[B, T]``."""
    log_probs: NDArray[np.float32]
    """``[B, T]``, under the distribution that each token was drawn from."""
    lengths: NDArray[np.int64]
    """``[B]``, the end-of-sequence token included."""
    finished: NDArray[np.bool_]
    """``[B]``, whether an end-of-sequence token was sampled."""


def uniform_numbers(seeds: Sequence[int], count: int) -> NDArray[np.float64]:
    """``[len(seeds), count]`` numbers in [0, 1); a row depends on its own seed only (Philox, seed as key)."""
    rows = [np.random.Generator(np.random.Philox(key=int(seed) % 2**64)).random(count) for seed in seeds]
    return np.stack(rows)


def sampling_log_probs(logits: Tensor, sampling: Sampling) -> Tensor:
    """Log-probabilities of the sampling distribution, float32, ``[B, V]``; at temperature 0, of temperature 1."""
    log_probs = (logits.float() / (sampling.temperature or 1.0)).log_softmax(dim=-1)
    if sampling.top_p == 1.0 or sampling.temperature == 0.0:
        return log_probs
    ordered, order = log_probs.sort(dim=-1, descending=True)
    before = ordered.exp().cumsum(dim=-1) - ordered.exp()
    outside = torch.zeros_like(log_probs, dtype=torch.bool).scatter(-1, order, before >= sampling.top_p)
    return log_probs.masked_fill(outside, -math.inf).log_softmax(dim=-1)


def draw(probs: Tensor, uniform: Tensor) -> Tensor:
    """Invert the cumulative distribution: ``[B, V]`` probabilities and ``[B]`` uniform numbers to ``[B]`` tokens.

    Two levels, blocks of about sqrt(V) tokens and tokens in a block, keep the sums in the (double) precision of
    ``uniform`` without a copy of ``probs`` in it. A token of probability 0 is never drawn.
    """
    batch, vocabulary = probs.shape
    width = math.isqrt(vocabulary - 1) + 1
    blocks = torch.nn.functional.pad(probs, (0, -vocabulary % width)).view(batch, -1, width)
    sums = blocks.sum(dim=-1, dtype=uniform.dtype)
    target = uniform * sums.sum(dim=-1)
    block, before = _invert(sums, target)
    chosen = blocks[torch.arange(batch, device=probs.device), block].to(uniform.dtype)
    token, _ = _invert(chosen, (target - before).clamp(min=0.0))
    return (block * width + token).clamp(max=vocabulary - 1)


def _invert(weights: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Index at which the running sum of ``weights`` ``[B, N]`` first exceeds ``target`` ``[B]``, and the sum before."""
    running = weights.cumsum(dim=-1)
    # Rounding can put the target at the very end, where only an index of weight 0 might follow.
    reachable = torch.nextafter(running[:, -1:], torch.zeros_like(running[:, -1:]))
    target = torch.minimum(target[:, None], reachable)
    index = (running <= target).sum(dim=-1, keepdim=True).clamp(max=weights.shape[-1] - 1)
    before = running.gather(-1, index) - weights.gather(-1, index)
    return index[:, 0], before[:, 0]


def decode(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    group_size: int,
    sampling: Sampling,
    seeds: Sequence[int],
    eos_token_ids: Sequence[int],
) -> Decoded:
    """Sample a batch to its end. The caller has put the model in evaluation mode and switched gradients off.

    Args:
        model: A causal language model.
        prompts: Token ids of P prompts.
        group_size: Completions per prompt, G; the prompt is read once for all of them.
        sampling: How tokens are drawn.
        seeds: ``[P * G]``.
        eos_token_ids: Tokens that end a completion.

    Raises:
        RolloutError: The model returned logits that are not finite.
    """
    device, size, length = model.device, len(seeds), sampling.max_tokens
    greedy = sampling.temperature == 0.0
    # Apple's GPU has no double precision.
    precision = torch.float32 if device.type == "mps" else torch.float64
    uniforms = None if greedy else torch.from_numpy(uniform_numbers(seeds, length)).to(precision).to(device)
    eos = torch.tensor(eos_token_ids, device=device)
    tokens = torch.zeros(size, length, dtype=torch.long, device=device)
    log_probs = torch.zeros(size, length, device=device)
    lengths = torch.zeros(size, dtype=torch.long, device=device)
    finished = torch.zeros(size, dtype=torch.bool, device=device)
    rows = torch.arange(size, device=device)
    alive = torch.ones(size, dtype=torch.bool, device=device)
    live = LiveRows(model, prompts, group_size)
    for step in range(length):
        distribution = sampling_log_probs(live.logits, sampling)
        token = distribution.argmax(-1) if uniforms is None else draw(distribution.exp(), uniforms[rows, step])
        log_prob = distribution.gather(-1, token[:, None])[:, 0]
        tokens[rows, step], log_probs[rows, step] = token, log_prob
        lengths[rows] += alive
        broken = alive & ~torch.isfinite(log_prob)
        ended = (token[:, None] == eos).any(dim=-1) & alive
        finished[rows] |= ended
        alive = alive & ~ended
        num_alive, num_broken = torch.stack([alive.sum(), broken.sum()]).tolist()
        if num_broken:
            raise RolloutError(
                f"the model's logits are not finite in {num_broken} of {size} completions (token {step + 1} of each)"
            )
        if num_alive == 0 or step == length - 1:
            break
        if num_alive <= COMPACT_BELOW * len(rows):
            kept = alive.nonzero()[:, 0]
            rows, token, alive = rows[kept], token[kept], alive[kept]
            live.keep(kept)
        live.step(token)
    return Decoded(
        tokens.to(torch.int32).cpu().numpy(), log_probs.cpu().numpy(), lengths.cpu().numpy(), finished.cpu().numpy()
    )


class LiveRows:
    """The completions that are still being generated: their KV cache, and the mask and positions padding asks for.

    Args:
        model: A causal language model.
        prompts: Token ids of P prompts; shorter ones are padded on the left.
        group_size: Rows per prompt.
    """

    logits: Tensor
    """Of the next token, ``[B, V]``."""
    _cache: Any

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], group_size: int) -> None:
        self._model = model
        accepted = inspect.signature(model.forward).parameters
        self._options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.ones_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.as_tensor(prompt)
            mask[row, : longest - len(prompt)] = 0
        # Without padding there is nothing to mask, and attention is faster when it is not told so.
        self._mask = None if mask.all() else mask.to(model.device)
        self._positions = None if self._mask is None else (self._mask.cumsum(-1) - 1).clamp(min=0)
        self._cache = None
        self._forward(ids.to(model.device))
        self._cache.batch_repeat_interleave(group_size)
        self.logits = self.logits.repeat_interleave(group_size, dim=0)
        if self._mask is not None and self._positions is not None:
            self._mask = self._mask.repeat_interleave(group_size, dim=0)
            self._positions = self._positions[:, -1:].repeat_interleave(group_size, dim=0)

    def keep(self, rows: Tensor) -> None:
        """Drop every row but these."""
        self._cache.batch_select_indices(rows)
        if self._mask is not None and self._positions is not None:
            self._mask, self._positions = self._mask[rows], self._positions[rows]

    def step(self, token: Tensor) -> None:
        """Append one token ``[B]`` to each row."""
        if self._mask is not None and self._positions is not None:
            self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
            self._positions = self._positions + 1
        self._forward(token[:, None])

    def _forward(self, ids: Tensor) -> None:
        padding = {} if self._mask is None else {"attention_mask": self._mask, "position_ids": self._positions}
        # use_cache is said out loud: trainers switch it off in the config for gradient checkpointing.
        output = self._model(
            input_ids=ids, past_key_values=self._cache, use_cache=True, return_dict=True, **padding, **self._options
        )
        self._cache, self.logits = output.past_key_values, output.logits[:, -1]
