"""Trees of arrays and plain values in one zip file, written atomically, read without executing anything.

A file holds ``tree.json`` (the structure and every plain value) and one ``.npy`` member per array. NumPy's own
format is read with pickling disabled, so that loading a file from a stranger can at worst fail.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from r2vpo.errors import CheckpointError

FORMAT = "r2vpo-checkpoint"
FORMAT_VERSION = 1


def save_tree(path: str | Path, tree: dict[str, Any]) -> None:
    """Write a nested structure to ``path``, replacing it in one step.

    The file is written under a temporary name beside it, flushed to the disk and renamed; whatever happens in
    between, ``path`` holds either the old contents or the new ones, whole.

    Args:
        path: Target; its folder must exist.
        tree: Dicts with string or integer keys, lists, tuples, tensors, arrays, numbers, strings, None.

    Raises:
        TypeError: Something in the tree is none of these.
    """
    path = Path(path)
    arrays: list[np.ndarray] = []
    document = {"format": FORMAT, "version": FORMAT_VERSION, "tree": _encode(tree, arrays, "")}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                archive.writestr("tree.json", json.dumps(document))
                for index, array in enumerate(arrays):
                    buffer = io.BytesIO()
                    np.save(buffer, array, allow_pickle=False)
                    archive.writestr(f"{index}.npy", buffer.getvalue())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def load_tree(path: str | Path) -> dict[str, Any]:
    """Read what :func:`save_tree` wrote; tensors come back as tensors, arrays as arrays.

    Raises:
        CheckpointError: Missing, truncated, damaged, or not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            if "tree.json" not in archive.namelist():
                raise CheckpointError(f"{path} is a zip file, but not a checkpoint of this library")
            document = json.loads(archive.read("tree.json"))
            if not isinstance(document, dict) or document.get("format") != FORMAT:
                raise CheckpointError(f"{path} is not a checkpoint of this library")
            if document.get("version") != FORMAT_VERSION:
                found = document.get("version")
                raise CheckpointError(f"{path} has checkpoint format {found}; this version reads {FORMAT_VERSION}")
            tree = _decode(document["tree"], archive)
    except CheckpointError:
        raise
    except Exception as error:
        # Bytes from anywhere can make the readers below fail in any way; to the caller it is one thing.
        raise CheckpointError(f"{path} is truncated, damaged or foreign: {error}") from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path} does not hold a dictionary")
    return tree


def write_text_atomically(path: str | Path, text: str) -> None:
    """Replace a small text file in one step, as :func:`save_tree` does."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def generator_state(generator: np.random.Generator) -> str:
    """State of a NumPy generator as JSON text."""
    return json.dumps(generator.bit_generator.state)


def restore_generator(generator: np.random.Generator, state: str) -> None:
    """Put back what :func:`generator_state` returned."""
    generator.bit_generator.state = json.loads(state)


def _encode(value: Any, arrays: list[np.ndarray], where: str) -> Any:
    if isinstance(value, torch.Tensor):
        plain = value.detach().cpu()
        # NumPy has no bfloat16: its bits travel as 16-bit integers.
        kind = "bfloat16" if plain.dtype == torch.bfloat16 else "tensor"
        arrays.append((plain.view(torch.int16) if kind == "bfloat16" else plain).numpy())
        return {kind: len(arrays) - 1}
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise TypeError(f"cannot store an array of objects at {where}")
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str | int):
                raise TypeError(f"cannot store a key of type {type(key).__name__} at {where}")
        return {"dict": [[key, _encode(item, arrays, f"{where}/{key}")] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_encode(item, arrays, f"{where}/{i}") for i, item in enumerate(value)]}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"cannot store a {type(value).__name__} at {where}")


def _decode(value: Any, archive: zipfile.ZipFile) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind in ("tensor", "bfloat16", "array"):
        array = np.load(io.BytesIO(archive.read(f"{int(content)}.npy")), allow_pickle=False)
        if kind == "array":
            return array
        tensor = torch.from_numpy(array)
        return tensor.view(torch.bfloat16) if kind == "bfloat16" else tensor
    if kind == "dict":
        return {key: _decode(item, archive) for key, item in content}
    if kind in ("list", "tuple"):
        items = [_decode(item, archive) for item in content]
        return items if kind == "list" else tuple(items)
    raise ValueError(f"unknown entry {kind!r}")


def _sync_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # as on Windows, where a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
