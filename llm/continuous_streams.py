"""Each request of a continuous batch draws its tokens from a random stream of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from r2vpo.llm.decoding import draw, sampling_log_probs, uniform_numbers
from r2vpo.llm.rollout import Sampling


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
