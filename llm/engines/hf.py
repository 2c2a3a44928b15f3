"""Rollouts from the trained model itself, through its own forward pass and KV cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from r2vpo.errors import ConfigError
from r2vpo.llm.engines.base import Completion, Sampling, base_causal_lm, check_request, context_length, eos_token_ids
from r2vpo.llm.engines.decoding import decode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CPU_MEMORY = 2 * 2**30
"""Bytes of KV cache and logits a batch may take on the CPU; on a GPU it is half of what is free."""
LARGEST_BATCH = 512
"""Completions; beyond it a step costs what its rows cost, and finished rows wait longer for a smaller batch."""


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
        self.eos_token_ids = eos_token_ids(base_causal_lm(model), tokenizer)
        self._model: PreTrainedModel | None = model

    def generate(
        self, prompts: Sequence[Sequence[int]], group_size: int, sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        """See :meth:`r2vpo.llm.engines.base.RolloutEngine.generate`."""
        if self._model is None:
            raise ConfigError("engine", "closed", "open; make another one")
        model = base_causal_lm(self._model)
        check_request(prompts, group_size, sampling, seeds, context_length(model))
        completions: list[Completion | None] = [None] * len(seeds)
        with evaluation_mode(model), torch.no_grad():
            for batch in self._batches(model, prompts, group_size, sampling):
                for position, completion in self._generate_batch(model, batch, prompts, group_size, sampling, seeds):
                    completions[position] = completion
        return [completion for completion in completions if completion is not None]

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

    def _generate_batch(
        self,
        model: PreTrainedModel,
        batch: list[range],
        prompts: Sequence[Sequence[int]],
        group_size: int,
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> Iterator[tuple[int, Completion]]:
        positions = [position for part in batch for position in part]
        batch_prompts = [prompts[part[0] // group_size] for part in batch]
        batch_seeds = [seeds[position] for position in positions]
        decoded = decode(model, batch_prompts, len(batch[0]), sampling, batch_seeds, self.eos_token_ids)
        for row, position in enumerate(positions):
            length = decoded.lengths[row]
            yield (
                position,
                Completion(
                    tokens=decoded.tokens[row, :length].copy(),
                    log_probs=decoded.log_probs[row, :length].copy(),
                    finished=bool(decoded.finished[row]),
                    weight_version=self.weight_version,
                ),
            )


@contextmanager
def evaluation_mode(model: PreTrainedModel) -> Iterator[None]:
    """Switch dropout and gradient checkpointing (which forbids the KV cache) off, then restore every module's mode."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


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
