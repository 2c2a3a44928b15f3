"""Rollouts from the trained model itself, through its own forward pass and KV cache.

Tokens are sampled one at a time, from uniform numbers that belong to each completion alone.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from r2vpo.errors import ConfigError, RolloutError
from r2vpo.llm.engines.base import Completion, Sampling, check_request, context_length, eos_token_ids
from r2vpo.llm.models.token_policy import evaluation_mode, without_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CPU_MEMORY = 2 * 2**30
"""Bytes of KV cache and logits a batch may take on the CPU; on a GPU it is half of what is free."""
LARGEST_BATCH = 512
"""Completions; beyond it a step costs what its rows cost, and finished rows wait longer for a smaller batch."""
COMPACT_BELOW = 0.75
"""Finished rows leave the batch once fewer than this fraction of it is alive: moving the cache costs about as much as
one step of attention reading it, so waiting for half of the rows wastes more than it saves."""


class HFEngine:
    """Generates with the very model object that is being trained, so its weights are never stale.

    Log-probs come from the logits that the tokens are drawn from, in float32, without a second pass. Each completion
    draws from a stream of its own (counter-based, keyed by its seed), so it is the same in every batch, up to the
    rounding of a matrix product. A prompt is read once for its whole group; finished rows leave the batch.

    Args:
        model: A causal language model, with or without LoRA; sequences in, logits out, KV cache in between.
        tokenizer: Names the end-of-sequence token, with the model's generation config.
        max_batch: Completions generated side by side. Default: what fits in 2 GiB of KV cache and logits on the CPU or
            half of the free memory of a GPU, at most 512.

    Raises:
        ConfigError: ``max_batch`` below 1, or no end-of-sequence token anywhere.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_batch: int | None = None
    ) -> None:
        if max_batch is not None and max_batch < 1:
            raise ConfigError("max_batch", max_batch, "at least 1, or None for what fits in memory")
        self.weight_version = 0
        self.max_batch = max_batch
        self.eos_token_ids = eos_token_ids(without_adapter(model), tokenizer)
        self._model: PreTrainedModel | None = model

    def generate(
        self, prompts: Sequence[Sequence[int]], group_size: int, sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        """See :meth:`r2vpo.llm.engines.base.RolloutEngine.generate`."""
        if self._model is None:
            raise ConfigError("engine", "closed", "open; make another one")
        model = without_adapter(self._model)
        check_request(prompts, group_size, sampling, seeds, context_length(model))
        completions: dict[int, Completion] = {}
        with evaluation_mode(model), torch.no_grad():
            for batch in self._batches(model, prompts, group_size, sampling):
                positions = [position for part in batch for position in part]
                chosen = [prompts[part[0] // group_size] for part in batch]
                made = self._decode(model, chosen, len(batch[0]), sampling, [seeds[position] for position in positions])
                completions.update(zip(positions, made, strict=True))
        return [completions[position] for position in range(len(seeds))]

    def sync_weights(self, model: PreTrainedModel, version: int) -> None:
        """Stamp the version; the weights are those of ``model`` already, whatever object it is now."""
        self._model, self.weight_version = model, version

    def close(self) -> None:
        """Let go of the model."""
        self._model = None

    def _batches(
        self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], group_size: int, sampling: Sampling
    ) -> Iterator[list[range]]:
        """Positions of completions to generate side by side, one range (all or part of a group) for each prompt.

        Longest first: padding is small, and what does not fit in memory fails at once.
        """
        longest = max(map(len, prompts), default=0)
        limit = self.max_batch or memory_limit(model, longest + sampling.max_tokens)
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        if group_size > limit:
            for index in order:
                for start in range(0, group_size, limit):
                    first = index * group_size
                    yield [range(first + start, first + min(start + limit, group_size))]
            return
        together = limit // group_size
        for start in range(0, len(order), together):
            yield [range(i * group_size, (i + 1) * group_size) for i in order[start : start + together]]

    def _decode(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[Completion]:
        """Sample a batch of ``len(prompts) * group_size`` completions to its end."""
        device, size, length = model.device, len(seeds), sampling.max_tokens
        greedy = sampling.temperature == 0.0
        # Apple's GPU has no double precision.
        precision = torch.float32 if device.type == "mps" else torch.float64
        uniforms = None if greedy else torch.from_numpy(uniform_numbers(seeds, length)).to(precision).to(device)
        eos = torch.tensor(self.eos_token_ids, device=device)
        tokens = torch.zeros(size, length, dtype=torch.int32, device=device)
        log_probs = torch.zeros(size, length, device=device)
        lengths = torch.zeros(size, dtype=torch.long, device=device)
        finished = torch.zeros(size, dtype=torch.bool, device=device)
        rows = torch.arange(size, device=device)
        alive = torch.ones(size, dtype=torch.bool, device=device)
        live = _LiveRows(model, prompts, group_size)
        for step in range(length):
            distribution = sampling_log_probs(live.logits, sampling)
            token = distribution.argmax(-1) if uniforms is None else draw(distribution.exp(), uniforms[rows, step])
            log_prob = distribution.gather(-1, token[:, None])[:, 0]
            tokens[rows, step], log_probs[rows, step] = token.to(torch.int32), log_prob
            lengths[rows] += alive
            broken = alive & ~torch.isfinite(log_prob)
            ended = (token[:, None] == eos).any(dim=-1) & alive
            finished[rows] |= ended
            alive = alive & ~ended
            num_alive, num_broken = torch.stack([alive.sum(), broken.sum()]).tolist()
            if num_broken:
                where = f"{num_broken} of {size} completions (token {step + 1} of each)"
                raise RolloutError(f"the model's logits are not finite in {where}")
            if num_alive == 0 or step == length - 1:
                break
            if num_alive <= COMPACT_BELOW * len(rows):
                kept = alive.nonzero()[:, 0]
                rows, token, alive = rows[kept], token[kept], alive[kept]
                live.keep(kept)
            live.step(token)
        columns = zip(tokens.cpu().numpy(), log_probs.cpu().numpy(), lengths.tolist(), finished.tolist(), strict=True)
        return [
            Completion(row[:end].copy(), logs[:end].copy(), ended, self.weight_version)
            for row, logs, end, ended in columns
        ]


class _LiveRows:
    """The completions that are still being generated: their KV cache, and the mask and positions padding asks for.

    Args:
        model: A causal language model, in evaluation mode.
        prompts: Token ids of P prompts; shorter ones are padded on the left.
        group_size: Rows per prompt; each prompt is read once for all of them.
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
        self._padding: dict[str, Tensor] = {}
        if not mask.all():
            mask = mask.to(model.device)
            self._padding = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
        self._cache = None
        self._forward(ids.to(model.device))
        self._cache.batch_repeat_interleave(group_size)
        self.logits = self.logits.repeat_interleave(group_size, dim=0)
        if self._padding:
            self._padding["position_ids"] = self._padding["position_ids"][:, -1:]
            self._padding = {name: kept.repeat_interleave(group_size, dim=0) for name, kept in self._padding.items()}

    def keep(self, rows: Tensor) -> None:
        """Drop every row but these."""
        self._cache.batch_select_indices(rows)
        self._padding = {name: values[rows] for name, values in self._padding.items()}

    def step(self, token: Tensor) -> None:
        """Append one token ``[B]`` to each row."""
        if self._padding:
            mask = torch.nn.functional.pad(self._padding["attention_mask"], (0, 1), value=1)
            self._padding = {"attention_mask": mask, "position_ids": self._padding["position_ids"] + 1}
        self._forward(token[:, None])

    def _forward(self, ids: Tensor) -> None:
        # use_cache is said out loud: trainers switch it off in the config for gradient checkpointing.
        options = {"past_key_values": self._cache, "use_cache": True, "return_dict": True, **self._options}
        output = self._model(input_ids=ids, **options, **self._padding)
        self._cache, self.logits = output.past_key_values, output.logits[:, -1]


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


def memory_limit(model: PreTrainedModel, sequence_tokens: int) -> int:
    """Completions of ``sequence_tokens`` tokens (prompt included) that fit in the memory at hand, 1 to 512.

    The cache counts twice, because growing it by a token copies a layer at a time and dropping rows copies it all;
    the logits count four times in float32 (logits, log-probs, probabilities, work space).
    """
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache = 2 * config.num_hidden_layers * heads * head_size * model.dtype.itemsize * sequence_tokens
    memory = torch.cuda.mem_get_info(model.device)[0] // 2 if model.device.type == "cuda" else CPU_MEMORY
    fitting = int(memory // (2 * cache + 16 * config.vocab_size))
    return max(1, min(LARGEST_BATCH, fitting))
