"""Models and tokenizers by name, with errors that say what to change; and a way back to disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2vpo.errors import ConfigError
from r2vpo.llm.data.rows import REASONING_GYM
from r2vpo.llm.models import smollm
from r2vpo.llm.models.tiny_names import ARITHMETIC, EXPRESSIONS, is_tiny, make_tiny

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("auto", "float32", "bfloat16", "float16")
ATTENTIONS = ("auto", "sdpa", "eager", "flash_attention_2")
CONFIG = "config.json"


BUILT_IN: dict[str, Callable[[], Path]] = {
    ARITHMETIC: lambda: make_tiny(ARITHMETIC),
    EXPRESSIONS: lambda: make_tiny(EXPRESSIONS),
    smollm.NAME: smollm.smollm_directory,
}
"""Models that need no hub: functions that return the directory they are in, making it where need be. The tiny models
of reasoning-gym's tasks are made here as well, by names that begin with a prefix."""

_NAMES = " or ".join((*BUILT_IN, f"{REASONING_GYM}TASK"))
_KNOWN = f"a directory with {CONFIG}, a hub name that can be downloaded or is cached, or {_NAMES}"


def resolve_model(name: str) -> str:
    """What ``from_pretrained`` (and vLLM) can open: a directory, or a hub name as it is.

    Raises:
        ConfigError: A path without a model in it.
    """
    if name in BUILT_IN:
        return str(BUILT_IN[name]())
    if is_tiny(name):
        return str(make_tiny(name))
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise ConfigError("model", name, f"{_KNOWN}; this directory has no {CONFIG}")
        return str(path)
    if path.exists() or name.startswith((".", "/", "~")) or not 0 < len(name.split("/")) <= 2 or not name.strip("/"):
        raise ConfigError("model", name, f"{_KNOWN}; there is no such directory")
    return name


def load_model(
    name: str,
    *,
    dtype: str = "auto",
    attention: str = "auto",
    trust_remote_code: bool = False,
    gradient_checkpointing: bool = False,
    lora_rank: int = 0,
    lora_alpha: float | None = None,
) -> PreTrainedModel:
    """A causal language model, on the CPU and in evaluation mode.

    Args:
        name: A directory, a hub name, a key of :data:`BUILT_IN`, or ``reasoning-gym:TASK``.
        dtype: Of the weights; auto is bfloat16 where there is a GPU, float32 elsewhere.
        attention: auto is flash attention where it is installed, the dtype is half precision and the model has it;
            else what transformers prefers, which is sdpa.
        trust_remote_code: Run Python code that comes with the model.
        gradient_checkpointing: Recompute activations in the backward pass, in the mode :class:`TokenPolicy` sets.
        lora_rank: Wrap the model in a LoRA adapter of this rank on every linear layer but the last; 0 does not.
        lora_alpha: Scale of the adapter; None is twice the rank.

    Raises:
        ConfigError: The model cannot be found, is not a causal language model, lacks weights or needs remote code, or
            a setting it or this machine does not support.
    """
    _check_choices(dtype, attention, lora_rank)
    source = resolve_model(name)
    from transformers import AutoConfig, AutoModelForCausalLM

    with _explained(name):
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    resolved = _resolve_dtype(dtype)
    with _explained(name, attention):
        model, report = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=resolved,
            attn_implementation=_resolve_attention(attention, resolved, config),
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
        )
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise ConfigError("model", name, f"one with all its weights; {len(report['missing_keys'])} missing: {missing}")
    if gradient_checkpointing:
        _checkpoint_gradients(model)
    return _with_lora(model, lora_rank, lora_alpha) if lora_rank else model


def load_tokenizer(name: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a token that ends a text and one that pads.

    Where there is no padding token, the end-of-text token pads too. That is harmless here: completions are scored,
    and batches attended to, by masks and lengths, never by looking for padding among the token ids.

    Args:
        name: As for :func:`load_model`.
        trust_remote_code: Run Python code that comes with the tokenizer.

    Raises:
        ConfigError: No tokenizer, or none with an end-of-text token.
    """
    source = resolve_model(name)
    with _explained(name, what="a tokenizer"):
        kind = _tokenizer_class(source)
        tokenizer = kind.from_pretrained(source, trust_remote_code=trust_remote_code)
    if tokenizer.eos_token_id is None:
        raise ConfigError("model", name, "one whose tokenizer has an eos_token: without it no completion could end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def save_pretrained(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Write weights, config and tokenizer as ``from_pretrained`` reads them, LoRA merged into the weights.

    Each file is complete when it appears, and the config appears last: a directory that has one has everything.
    The model stays as it is, adapters included.
    """
    from r2vpo.llm.models.token_policy import without_adapter

    base = without_adapter(model)
    weights = None if base is model else dict(checkpoint_weights(model))
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=path) as scratch:
        base.save_pretrained(scratch, state_dict=weights)
        tokenizer.save_pretrained(scratch)
        for file in sorted(Path(scratch).iterdir(), key=lambda file: file.name == CONFIG):
            os.replace(file, path / file.name)


def checkpoint_weights(model: PreTrainedModel) -> list[tuple[str, torch.Tensor]]:
    """Every weight by its checkpoint name, LoRA merged in, tied heads included.

    LoRA is added to a copy of each adapted weight. Merging in place and back again, as peft does, would leave
    rounding errors behind in the base weights at every call.

    Args:
        model: A causal language model, with or without LoRA adapters.

    Raises:
        ConfigError: Adapters other than plain LoRA.
    """
    import torch

    from r2vpo.llm.models.token_policy import without_adapter

    base = without_adapter(model)
    with torch.no_grad():
        weights = _merged_state(base) if base is not model else dict(base.state_dict())
    head = base.get_output_embeddings()
    # Without it vLLM leaves the head of tied embeddings at its old values, in silence.
    if head is not None and "lm_head.weight" not in weights:
        weights["lm_head.weight"] = head.weight
    return [(name, weight.detach()) for name, weight in weights.items()]


def _merged_state(base: torch.nn.Module) -> dict[str, torch.Tensor]:
    from peft.tuners.lora import LoraLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    deltas = {}
    for name, module in base.named_modules():
        if not isinstance(module, BaseTunerLayer):
            continue
        plain = isinstance(module, LoraLayer) and not module.lora_variant and not any(module.lora_bias.values())
        if not plain:
            raise ConfigError("peft_config", type(module).__name__, "plain LoRA (no DoRA, no bias) with vLLM")
        adapters = [] if module.disable_adapters else [a for a in module.active_adapters if a in module.scaling]
        if adapters:
            deltas[f"{name}.weight"] = sum(module.get_delta_weight(adapter) for adapter in adapters)
    state = {}
    for key, value in base.state_dict().items():
        if ".original_module." in key or "lora_" in key:
            continue
        name = key.replace(".base_layer.", ".")
        if ".modules_to_save." in name:
            before, after = name.split(".modules_to_save.")
            name = f"{before}.{after.split('.', 1)[1]}"
        state[name] = (value + deltas[name]).to(value.dtype) if name in deltas else value
    if deltas.keys() - state.keys():
        raise ConfigError("peft_config", sorted(deltas.keys() - state.keys()), "LoRA on layers that own a weight")
    return state


def _tokenizer_class(source: str) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    named = get_tokenizer_config(source).get("tokenizer_class")
    # A tokenizer of no particular class is what its file says. AutoTokenizer (transformers 5.19) would make Qwen2's out
    # of it where the model is a Qwen2: spaces and line breaks vanish, and an end-of-text token appears.
    return PreTrainedTokenizerFast if named in ("PreTrainedTokenizerFast", "TokenizersBackend") else AutoTokenizer


def _check_choices(dtype: str, attention: str, lora_rank: int) -> None:
    if dtype not in DTYPES:
        raise ConfigError("dtype", dtype, f"one of {', '.join(DTYPES)}")
    if attention not in ATTENTIONS:
        raise ConfigError("attention", attention, f"one of {', '.join(ATTENTIONS)}")
    if lora_rank < 0:
        raise ConfigError("lora_rank", lora_rank, "a whole number of at least 0")


def _resolve_dtype(dtype: str) -> torch.dtype:
    import torch

    if dtype == "auto":
        dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    resolved: torch.dtype = getattr(torch, dtype)
    return resolved


def _resolve_attention(attention: str, dtype: torch.dtype, config: Any) -> str | None:
    """What transformers is told; None leaves the choice to it."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import is_flash_attn_2_available

    installed = is_flash_attn_2_available()
    if attention == "flash_attention_2" and not installed:
        raise ConfigError("attention", attention, "sdpa, eager or auto here: flash-attn is not installed, or no GPU")
    if attention != "auto":
        return attention
    kind = AutoModelForCausalLM._model_mapping.get(type(config), None)
    usable = installed and dtype.itemsize == 2 and getattr(kind, "_supports_flash_attn", False)
    return "flash_attention_2" if usable else None


def _checkpoint_gradients(model: PreTrainedModel) -> None:
    if not model.supports_gradient_checkpointing:
        raise ConfigError("gradient_checkpointing", True, f"False: {type(model).__name__} does not support it")
    # The reentrant kind gives adapters on frozen weights no gradient.
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _with_lora(model: PreTrainedModel, rank: int, alpha: float | None) -> PreTrainedModel:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ConfigError("lora_rank", rank, "0 while peft is not installed: pip install peft") from error
    scale = 2 * rank if alpha is None else alpha
    config = LoraConfig(r=rank, lora_alpha=scale, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config)


@contextmanager
def _explained(name: str, attention: str = "auto", what: str = "a model") -> Iterator[None]:
    """Turn what transformers raises into an error that names the setting; the original stays chained."""
    try:
        yield
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError("model", name, f"{_KNOWN}; {what} could not be loaded: {_first_line(error)}") from error
    except ValueError as error:
        text = str(error)
        if "trust_remote_code" in text:
            raise ConfigError("trust_remote_code", False, f"True to run the Python code that {name} needs") from error
        if attention != "auto" and "does not support" in text:
            raise ConfigError("attention", attention, f"auto or eager: {name} does not support it") from error
        raise ConfigError("model", name, f"a causal language model: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
