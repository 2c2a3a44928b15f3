"""Choose a rollout engine by name.

``hf``
    :class:`~r2vpo.llm.engines.hf.HFEngine`: the trained model itself. Needs nothing more, and is the fastest of them
    for tiny models on a CPU (``r2vpo bench llm --cases engines``).
``vllm``
    :class:`~r2vpo.llm.engines.vllm.VLLMEngine`: a second copy of the weights in vLLM. For real models on a GPU.
``auto``
    ``vllm`` where it is installed and a GPU holds the model, otherwise ``hf``.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from r2vpo.errors import ConfigError
from r2vpo.llm.engines.base import RolloutEngine

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ENGINES = ("auto", "hf", "vllm")
"""What :func:`make_engine` takes."""


def choose_engine(kind: str, model: PreTrainedModel) -> tuple[str, str]:
    """Resolve ``"auto"``.

    Returns:
        The engine's name and, in a few words, why it was chosen.

    Raises:
        ConfigError: An unknown name.
    """
    if kind not in ENGINES:
        raise ConfigError("engine", kind, f"one of {', '.join(ENGINES)}")
    if kind != "auto":
        return kind, "asked for"
    if model.device.type != "cuda":
        return "hf", f"the model is on {model.device.type}, where starting vLLM costs more than a small model gains"
    if importlib.util.find_spec("vllm") is None:
        return "hf", "vllm is not installed"
    return "vllm", "the model is on a GPU and vllm is installed"


def make_engine(
    kind: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **options: Any
) -> tuple[RolloutEngine, str]:
    """Start a rollout engine.

    Args:
        kind: One of :data:`ENGINES`.
        model: The trained model.
        tokenizer: Names the end-of-sequence token.
        options: For the engine's constructor, such as ``max_batch`` (hf) or ``gpu_memory_utilization`` (vllm).

    Returns:
        The engine, and a line that says which one it is and why.

    Raises:
        ConfigError: Unknown name or option, or an engine that cannot run here.
        RolloutError: vLLM does not reproduce the model's log-probs.
    """
    name, reason = choose_engine(kind, model)
    engine_class = _engine_class(name)
    known = list(engine_class.__init__.__annotations__)
    for option, value in options.items():
        if option not in known:
            raise ConfigError(option, value, f"left out: the {name} engine does not take it")
    return engine_class(model, tokenizer, **options), f"rollout engine: {name} ({reason})"


def _engine_class(name: str) -> Any:
    if name == "vllm":
        from r2vpo.llm.engines.vllm import VLLMEngine

        return VLLMEngine
    from r2vpo.llm.engines.hf import HFEngine

    return HFEngine
