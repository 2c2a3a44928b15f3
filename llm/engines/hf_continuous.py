"""Rollouts through transformers' continuous batching: paged KV cache, new requests in the place of finished ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from r2vpo.errors import ConfigError, RolloutError
from r2vpo.llm.engines.base import Completion, Sampling, base_causal_lm, check_request, context_length, eos_token_ids
from r2vpo.llm.engines.decoding import draw, sampling_log_probs, uniform_numbers
from r2vpo.llm.engines.hf import evaluation_mode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class OwnStreams:
    """Draws each request's next token from its own uniform numbers, and remembers the log-probs.

    Args:
        prompt_lengths: Of N requests, in tokens.
        sampling: How tokens are drawn.
        seeds: ``[N]``.
    """

    def __init__(self, prompt_lengths: Sequence[int], sampling: Sampling, seeds: Sequence[int]) -> None:
        self.log_probs = np.full((len(seeds), sampling.max_tokens), np.nan, dtype=np.float32)
        self._prompt_lengths = prompt_lengths
        self._sampling = sampling
        self._uniforms = uniform_numbers(seeds, sampling.max_tokens)
        self._places: list[tuple[int, int]] = []

    def locate(self, states: Sequence[Any]) -> None:
        """Note which request, and which of its tokens, each row of the coming logits belongs to."""
        self._places = []
        for state in states:
            index = int(state.request_id)
            # A request that was evicted comes back with what it had generated as part of its prompt.
            length = len(state.initial_tokens) + len(state.generated_tokens)
            self._places.append((index, length - self._prompt_lengths[index]))

    def choose(self, logits: Tensor) -> Tensor:
        """``[N, V]`` logits to ``[N, V]`` scores whose largest is the drawn token."""
        real = len(self._places)
        distribution = sampling_log_probs(logits[:real], self._sampling)
        places = tuple(np.array(self._places, dtype=np.int64).reshape(real, 2).T)
        if self._sampling.temperature == 0.0:
            token = distribution.argmax(-1)
        else:
            token = draw(distribution.exp(), torch.from_numpy(self._uniforms[places]).to(logits.device))
        self.log_probs[places] = distribution.gather(-1, token[:, None])[:, 0].cpu().numpy()
        scores = torch.zeros_like(logits)
        scores[torch.arange(real, device=logits.device), token] = 1.0
        return scores

    def processor(self) -> Any:
        """This object in the shape that transformers calls."""
        from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor

        streams = self

        class _Processor(ContinuousBatchingLogitsProcessor):
            supported_kwargs: dict[str, type] = {}  # noqa: RUF012 (the name and shape are transformers')
            ignored_kwargs = ()

            def fill_defaults(self, int32_tensor: Tensor) -> None:
                int32_tensor.zero_()

            def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Tensor:
                streams.locate([request.state for request in requests_with_new_token])
                return torch.zeros(len(requests_with_new_token), dtype=torch.int32)

            def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
                return streams.choose(scores)

        return _Processor()


class HFContinuousEngine:
    """Generates with the trained model under transformers' continuous batching.

    transformers draws a batch from one global random stream. Here a logits processor draws instead, from each
    completion's own stream, and hands back a distribution with all its mass on that token; so this engine returns
    the tokens and log-probs of :class:`~r2vpo.llm.engines.hf.HFEngine` up to rounding. Asynchronous batching and CUDA
    graphs are off, because the processor has to know which request is in which row.

    Tested on the CPU, where it is slower than :class:`~r2vpo.llm.engines.hf.HFEngine`; it has not been run on a GPU,
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
        """See :meth:`r2vpo.llm.engines.base.RolloutEngine.generate`."""
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
