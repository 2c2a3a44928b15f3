"""A causal language model as a policy over tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from r2vpo.errors import ConfigError
from r2vpo.llm.models.backbone import CausalLM
from r2vpo.llm.models.logprob import token_log_probs
from r2vpo.policy import Policy


class TokenPolicy(Policy):
    """Scores sampled tokens under ``softmax(logits / temperature)``.

    A batch holds, each ``[B, T]``, with prompt and completion of a row next to each other from column 0 on:

    - ``input_ids``: token ids, padding (any id) on the right,
    - ``attention_mask``: 1 where a token is, 0 where padding is,
    - ``completion_mask``: True where the token was sampled and is to be scored.

    The model scores as it samples: its dropout is switched off for good, here, and it runs in evaluation mode but for
    gradient checkpointing (see :meth:`train`). The same batch gives the same bits every time, gradient or no gradient,
    so the ratio is 1 before the first gradient step.

    Args:
        model: Any Hugging Face causal language model, with or without LoRA. Its gradient checkpointing works.
        temperature: At which tokens are sampled.
        chunk_tokens: Bounds the memory of log-probs, see :func:`r2vpo.llm.models.logprob.token_log_probs`.

    Raises:
        ConfigError: ``temperature`` or ``chunk_tokens`` out of range, or a model that cannot be scored from its hidden
            states (see :class:`r2vpo.llm.models.backbone.CausalLM`).
    """

    def __init__(self, model: nn.Module, temperature: float = 1.0, chunk_tokens: int | None = None) -> None:
        super().__init__()
        if not (0 < temperature < math.inf):
            raise ConfigError("temperature", temperature, "a finite number above 0")
        if chunk_tokens is not None and chunk_tokens < 1:
            raise ConfigError("chunk_tokens", chunk_tokens, "a whole number of at least 1, or None")
        self.model = model
        self.temperature = temperature
        self.chunk_tokens = chunk_tokens
        self._parts = CausalLM(model)
        switch_off_dropout(model)
        self.train()

    def train(self, mode: bool = True) -> TokenPolicy:
        """Evaluation mode for the whole model, except that layers which checkpoint gradients do so if ``mode``.

        Call it again after switching gradient checkpointing on or off.
        """
        super().train(False)
        self.training = mode
        for module in self.model.modules():
            if getattr(module, "gradient_checkpointing", False) is True:
                module.training = mode
        return self

    def log_prob(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Log-prob of each sampled token given those before it, 0 elsewhere.

        Returns:
            ``[B, T]``, float32 (float64 for a float64 model).

        Raises:
            ValueError: A batch that is not as described above.
        """
        return self._score(batch)[0]

    def entropy(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Entropy in nats of the distribution each sampled token came from, 0 elsewhere; carries gradients."""
        return self._score(batch, entropy=True, entropy_gradient=True)[1]

    def log_prob_and_entropy(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """:meth:`log_prob` and :meth:`entropy` in one pass; the entropy carries no gradient here."""
        log_prob, entropy = self._score(batch, entropy=True)
        return log_prob, entropy

    def _score(
        self, batch: Mapping[str, Tensor], entropy: bool = False, entropy_gradient: bool = False
    ) -> tuple[Tensor, ...]:
        """Log-probs and, where asked for, entropies, each ``[B, T]``."""
        input_ids, scored = batch["input_ids"], batch["completion_mask"].bool()
        _check(input_ids, batch["attention_mask"].bool(), scored)
        index = scored.flatten().nonzero().squeeze(1)
        # The token at column t is predicted by the hidden state at column t - 1; column 0 is never scored.
        hidden = self._parts.hidden_states(input_ids).flatten(0, 1).index_select(0, index - 1)
        scores = token_log_probs(
            hidden,
            self._parts.weight,
            self._parts.bias,
            input_ids.flatten().index_select(0, index),
            self.temperature / self._parts.logit_scale,
            self.chunk_tokens,
            entropy,
            entropy_gradient,
        )
        return tuple(_placed(values, index, input_ids.shape) for values in scores if values is not None)


def switch_off_dropout(model: nn.Module) -> None:
    """Set every dropout, layer drop and router jitter of a model to 0, in place.

    Evaluation mode does the same, but layers checkpoint gradients in training mode only, and anyone may call
    ``model.train()``.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and ("drop" in name or "jitter" in name):
                setattr(module, name, 0.0)


def _placed(values: Tensor, index: Tensor, shape: torch.Size) -> Tensor:
    """Zeros of a shape, with ``values`` at the flat ``index``."""
    flat = torch.zeros(shape.numel(), dtype=values.dtype, device=values.device)
    return flat.scatter(0, index, values).view(shape)


def _check(input_ids: Tensor, attention_mask: Tensor, scored: Tensor) -> None:
    if input_ids.ndim != 2 or not input_ids.shape == attention_mask.shape == scored.shape:
        shapes = [tuple(x.shape) for x in (input_ids, attention_mask, scored)]
        raise ValueError(f"input_ids, attention_mask and completion_mask must have one shape [B, T], got {shapes}")
    padding_first = (attention_mask[:, 1:] & ~attention_mask[:, :-1]).any() | ~attention_mask[:, 0].all()
    unpredicted = scored[:, 0].any() | (scored & ~attention_mask).any()
    if bool(padding_first):
        raise ValueError("attention_mask has padding before a token: rows must start at column 0, padding on the right")
    if bool(unpredicted):
        raise ValueError("completion_mask marks column 0, which nothing predicts, or padding")
