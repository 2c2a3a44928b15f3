"""What ``r2vpo llm evaluate`` was pointed at: a run of our trainer, a model directory, or a name. Needs no torch."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r2vpo.errors import ConfigError, RunDirectoryError
from r2vpo.llm.models.tiny_names import is_tiny

CONFIG, MODEL = "config.json", "model"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SAMPLED_BLOCKS, _BLOCK_BYTES = 64, 65_536
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt")


@dataclass(frozen=True)
class EvaluatedModel:
    """Where the weights are, and what is known about how they were trained."""

    name: str
    """Short, for titles and folders."""
    source: str
    """What ``load_model`` takes."""
    run_config: dict[str, Any] = field(default_factory=dict)
    """config.json of the run; empty where it is no run of ours."""
    run_dir: Path | None = None


def find_model(argument: str) -> EvaluatedModel:
    """Look at a command-line argument, without loading anything.

    Raises:
        RunDirectoryError: A run without a trained model, or of another kind.
        ConfigError: Neither a directory with a model nor a possible name of one.
    """
    path = Path(argument).expanduser()
    if path.is_dir():
        return _directory(path)
    if is_tiny(argument):
        return EvaluatedModel(argument, argument)
    # a/b is a hub name, unless there is a folder a here: then b was meant to be in it.
    local = path.exists() or (len(path.parts) > 1 and path.parent.exists())
    if local or not _HUB_NAME.fullmatch(argument):
        raise ConfigError("model", argument, "a run directory, a directory with a model, or a name; it does not exist")
    return EvaluatedModel(path.name, argument)


def weights_fingerprint(path: Path) -> str | None:
    """Hash of the names and sizes of a directory's weight files, and of blocks spread over each; None without any."""
    files = sorted(file for file in path.glob("*") if file.suffix in _WEIGHTS) if path.is_dir() else []
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            for i in range(_SAMPLED_BLOCKS):
                stream.seek(i * max(_BLOCK_BYTES, size // _SAMPLED_BLOCKS))
                digest.update(stream.read(_BLOCK_BYTES))
    return digest.hexdigest()[:16]


def _directory(path: Path) -> EvaluatedModel:
    config = _read_config(path)
    if "kind" not in config and "env" not in config:
        if "model_type" not in config:
            raise ConfigError("model", str(path), f"a run directory or a model: {CONFIG} in it says neither")
        return EvaluatedModel(path.resolve().name, str(path))
    if config.get("kind") != "llm":
        raise RunDirectoryError(f"{path} is not a run of a language model; evaluate it with: r2vpo control evaluate")
    if not (path / MODEL / CONFIG).is_file():
        raise RunDirectoryError(
            f"{path} holds no trained model yet: finish the run first, with: r2vpo llm train --resume {path}"
        )
    return EvaluatedModel(path.resolve().name, str(path / MODEL), config, path)


def _read_config(path: Path) -> dict[str, Any]:
    file = path / CONFIG
    if not file.is_file():
        raise ConfigError("model", str(path), f"a run directory or a model: there is no {CONFIG} in it")
    try:
        config = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise RunDirectoryError(f"{file} is damaged: {error}") from error
    return config if isinstance(config, dict) else {}
