"""Rollouts through transformers' continuous batching: paged KV cache, new requests in the place of finished ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from r2vpo.errors import ConfigError, RolloutError
from r2vpo.llm.continuous_streams import OwnStreams
from r2vpo.llm.engine_requests import base_causal_lm, check_request, context_length, eos_token_ids
from r2vpo.llm.hf_engine import evaluation_mode
from r2vpo.llm.rollout import Completion, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class HFContinuousEngine:
    """Generates with the trained model under transformers' continuous batching.

    transformers draws a batch from one global random stream. Here a logits processor draws instead, from each
    completion's own stream, and hands back a distribution with all its mass on that token; so this engine returns
    the tokens and log-probs of :class:`~r2vpo.llm.hf_engine.HFEngine` up to rounding. Asynchronous batching and CUDA
    graphs are off, because the processor has to know which request is in which row.

    Tested on the CPU, where it is slower than :class:`~r2vpo.llm.hf_engine.HFEngine`; it has not been run on a GPU,
    which it is made for.

    Args:
        model: A causal language model, with or without LoRA.
        tokenizer: Names the end-of-sequence token, with the model's generation config.
        num_blocks, page_size, max_batch_tokens: Size of the paged KV cache, and of a step, in pages and tokens.
            Default: what transformers infers from free memory.

    Raises:
        ConfigError: transformers is too old, or no end-of-sequence token.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        num_blocks: int | None = None,
        page_size: int = 32,
        max_batch_tokens: int | None = None,
    ) -> None:
        import transformers

        if not hasattr(transformers, "ContinuousBatchingConfig"):
            raise ConfigError("engine", "hf-continuous", f"hf with transformers {transformers.__version__}")
        self.weight_version = 0
        self.eos_token_ids = eos_token_ids(base_causal_lm(model), tokenizer)
        self._cache_size = {"num_blocks": num_blocks, "page_size": page_size, "max_batch_tokens": max_batch_tokens}
        self._model: PreTrainedModel | None = model

    def generate(
        self, prompts: Sequence[Sequence[int]], group_size: int, sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        """See :meth:`r2vpo.llm.rollout.RolloutEngine.generate`."""
        if self._model is None:
            raise ConfigError("engine", "closed", "open; make another one")
        model = base_causal_lm(self._model)
        check_request(prompts, group_size, sampling, seeds, context_length(model))
        if not prompts:
            return []
        requests = [list(map(int, prompt)) for prompt in prompts for _ in range(group_size)]
        drawing = OwnStreams([len(request) for request in requests], sampling, seeds)
        with evaluation_mode(model), torch.no_grad():
            tokens = self._run(model, requests, sampling, drawing)
        completions = [
            Completion(
                tokens=np.array(tokens[i], dtype=np.int32),
                log_probs=drawing.log_probs[i, : len(tokens[i])].copy(),
                finished=tokens[i][-1] in self.eos_token_ids,
                weight_version=self.weight_version,
            )
            for i in range(len(requests))
        ]
        broken = sum(not np.isfinite(c.log_probs).all() for c in completions)
        if broken:
            raise RolloutError(f"the model's logits are not finite in {broken} of {len(seeds)} completions")
        return completions

    def sync_weights(self, model: PreTrainedModel, version: int) -> None:
        """Stamp the version; the weights are those of ``model`` already."""
        self._model, self.weight_version = model, version

    def close(self) -> None:
        """Let go of the model. The paged cache lives during :meth:`generate` only."""
        self._model = None

    def _run(
        self, model: PreTrainedModel, requests: list[list[int]], sampling: Sampling, drawing: OwnStreams
    ) -> dict[int, list[int]]:
        from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList

        settings = ContinuousBatchingConfig(use_async_batching=False, use_cuda_graph=False, **self._cache_size)
        greedy = GenerationConfig(
            do_sample=False, max_new_tokens=sampling.max_tokens, eos_token_id=self.eos_token_ids, pad_token_id=0
        )
        manager = model.init_continuous_batching(greedy, settings)
        manager.logit_processor.logits_processor = LogitsProcessorList([drawing.processor()])
        manager.logit_processor.tensors_required, manager.logit_processor.do_processing = 1, True
        manager.start()
        tokens: dict[int, list[int]] = {}
        try:
            for index, request in enumerate(requests):
                manager.add_request(request, request_id=str(index))
            while len(tokens) < len(requests):
                result = manager.get_result(timeout=1.0)
                if result is not None and result.error:
                    raise RolloutError(f"continuous batching failed: {result.error}")
                if result is not None and result.is_finished():
                    tokens[int(result.request_id)] = list(result.generated_tokens)
                elif result is None and not manager.is_running():
                    raise RolloutError(
                        f"continuous batching stopped after {len(tokens)} of {len(requests)} completions"
                    )
        finally:
            manager.stop(block=True, timeout=10.0, hard_stop=len(tokens) < len(requests))
            manager.destroy()
        return tokens
