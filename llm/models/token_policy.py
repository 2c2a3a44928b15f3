"""A causal language model as a policy over tokens, and what it is taken apart into: a backbone and an output layer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from r2vpo.errors import ConfigError
from r2vpo.llm.models.logprob import token_log_probs
from r2vpo.policy import Policy

SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap")
"""Names in configurations (Gemma 2, RecurrentGemma) of a tanh after the output layer."""

SCALES: dict[str, tuple[int, ...]] = {
    "logit_scale": (1,),
    "logits_scaling": (-1, 1),
    "lm_head_multiplier": (1,),
    "logits_mup_width_multiplier": (-1,),
}
"""Names in configurations of a factor on the logits, and its exponents: Cohere multiplies, Granite divides,
HyperCLOVA X multiplies under Granite's name, Falcon-H1 multiplies."""

PROBE_TOKENS = 4


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
            states (see :class:`CausalLM`).
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


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch dropout and gradient checkpointing (which forbids the KV cache) off, then restore every module's mode."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


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


class CausalLM:
    """A causal language model as a backbone, an output layer and a factor on the logits.

    The parts are put together once on a few tokens and compared with the model's own logits, so that an
    architecture with something else after its output layer is refused instead of scored wrongly.

    Args:
        model: Any Hugging Face causal language model, with or without a peft adapter.

    Raises:
        ConfigError: The parts cannot be told apart, or do not make up the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        inner = without_adapter(model)
        self._backbone = _find_backbone(inner)
        self._head = _find_head(inner)
        config = getattr(inner.config, "get_text_config", lambda: inner.config)()
        for name in SOFTCAPS:
            if getattr(config, name, None):
                raise _refused(inner, f"without {name}={getattr(config, name)}: capped logits are not supported")
        self.logit_scale = self._matching_scale(inner, _scale_candidates(config))

    @property
    def weight(self) -> Tensor:
        """Of the output layer, ``[V, H]``."""
        return self._head.weight

    @property
    def bias(self) -> Tensor | None:
        """Of the output layer, ``[V]``."""
        return self._head.bias

    def hidden_states(self, input_ids: Tensor) -> Tensor:
        """Last hidden states ``[B, T, H]`` of token ids ``[B, T]`` whose rows all start at column 0.

        There is no attention mask: under causal attention, padding on the right is seen by nothing before it, and
        attention without a mask runs in its fastest kernels.
        """
        hidden: Tensor = self._backbone(input_ids=input_ids, use_cache=False, return_dict=True)[0]
        return hidden

    @torch.no_grad()
    def _matching_scale(self, inner: nn.Module, candidates: list[float]) -> float:
        """The factor that turns our logits into the model's."""
        with evaluation_mode(self.model):
            ids = torch.arange(1, 1 + PROBE_TOKENS, device=self.weight.device)[None] % len(self.weight)
            expected = self.model(input_ids=ids, use_cache=False).logits.float()
            hidden = self.hidden_states(ids)
            bias = None if self.bias is None else self.bias.to(hidden.dtype)
            logits = nn.functional.linear(hidden, self.weight.to(hidden.dtype), bias).float()
        if logits.shape == expected.shape:
            scale = min(candidates, key=lambda scale: _largest_error(logits * scale, expected))
            if _largest_error(logits * scale, expected) <= _tolerance(self.weight.dtype):
                return scale
        raise _refused(inner, "one whose logits are its output layer applied to its last hidden states")


def without_adapter(model: Any) -> Any:
    """The Hugging Face model inside a peft model; any other model as it is."""
    configs = getattr(model, "peft_config", None)
    if configs is None or not hasattr(model, "get_base_model"):
        return model
    if any(getattr(config, "is_prompt_learning", False) for config in configs.values()):
        raise _refused(model, "one without prompt tuning: virtual tokens are not supported")
    return model.get_base_model()


def _find_head(model: Any) -> nn.Linear:
    find = getattr(model, "get_output_embeddings", None)
    head = find() if find is not None else None
    if not isinstance(head, nn.Linear) or head.weight.ndim != 2 or not head.weight.is_floating_point():
        found = "none" if head is None else type(head).__name__
        raise _refused(model, f"one whose output layer is a plain linear layer without adapter (found: {found})")
    return head


def _find_backbone(model: Any) -> nn.Module:
    """The module under the model's output layer; the same object stays in use, adapters included."""
    candidates = [getattr(model, getattr(model, "base_model_prefix", None) or "model", None)]
    if hasattr(model, "get_decoder"):
        candidates.append(model.get_decoder())
    for candidate in candidates:
        if isinstance(candidate, nn.Module) and candidate is not model:
            return candidate
    raise _refused(model, "one with a decoder that get_decoder() or base_model_prefix names")


def _scale_candidates(config: Any) -> list[float]:
    scales = [1.0]
    for name, exponents in SCALES.items():
        value = getattr(config, name, None)
        if isinstance(value, int | float) and value:
            scales += [float(value) ** exponent for exponent in exponents]
    return scales


def _largest_error(logits: Tensor, expected: Tensor) -> float:
    """Relative to the largest logit; weights that are not finite are not for this check to find."""
    size = max(float(expected.abs().nan_to_num(0.0, 0.0).max()), torch.finfo(torch.float32).tiny)
    return float((logits - expected).abs().nan_to_num(0.0, 0.0).max()) / size


def _tolerance(dtype: torch.dtype) -> float:
    """Products round differently from kernel to kernel: TF32 keeps 11 bits, bfloat16 8."""
    return 1e-3 if dtype in (torch.float32, torch.float64) else 3e-2


def _refused(model: nn.Module, allowed: str) -> ConfigError:
    return ConfigError("model", type(model).__name__, allowed)
