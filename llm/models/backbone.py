"""Takes a causal language model apart: what makes hidden states, and the output layer on top of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from r2vpo.errors import ConfigError

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
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            ids = torch.arange(1, 1 + PROBE_TOKENS, device=self.weight.device)[None] % len(self.weight)
            expected = self.model(input_ids=ids, use_cache=False).logits.float()
            hidden = self.hidden_states(ids)
            bias = None if self.bias is None else self.bias.to(hidden.dtype)
            logits = nn.functional.linear(hidden, self.weight.to(hidden.dtype), bias).float()
        finally:
            for module, mode in modes:
                module.training = mode
        if logits.shape == expected.shape:
            scale = min(candidates, key=lambda scale: _largest_error(logits * scale, expected))
            if _largest_error(logits * scale, expected) <= _tolerance(self.weight.dtype):
                return scale
        raise _refused(inner, "one whose logits are its output layer applied to its last hidden states")


def without_adapter(model: nn.Module) -> Any:
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
