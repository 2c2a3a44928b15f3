"""Rows from files (JSON lines, JSON lists, parquet, directories of them) and from the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from r2vpo.errors import ConfigError

Row = dict[str, Any]

SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
"""Endings of the files that can be read."""

_BATCH_ROWS = 8192


def read_path(path: Path, split: str, limit: int | None = None) -> list[Row]:
    """Rows of a file, or of the files of a directory that belong to a split, in the order of their names.

    Args:
        path: A file (its only split, whatever ``split`` says), a directory of files named after their splits
            (``train.jsonl``, ``train-00000-of-00002.parquet``; there or in ``data/``), a directory with one file
            whatever its name, or what ``datasets.Dataset.save_to_disk`` wrote.
        split: Name of the split in a directory.
        limit: Most rows; None reads all.

    Raises:
        ConfigError: Nothing there, no such split, an ending that is not known, or contents that cannot be read.
    """
    if path.is_dir():
        if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
            return _read_saved_dataset(path, split, limit)
        rows: Iterator[Row] = (row for file in split_files(path, split) for row in iterate_file(file))
    else:
        rows = iterate_file(path)
    return list(islice(rows, limit))


def iterate_file(path: Path) -> Iterator[Row]:
    """Rows of one file, one after the other.

    Raises:
        ConfigError: As :func:`read_path`.
    """
    if not path.is_file():
        raise ConfigError("dataset", str(path), "an existing file or directory")
    if path.suffix in (".jsonl", ".ndjson"):
        return _json_lines(path)
    if path.suffix == ".json":
        return _json_list(path)
    if path.suffix == ".parquet":
        return (row for batch in parquet_batches(path) for row in batch.to_pylist())
    raise ConfigError("dataset", str(path), f"a file that ends in {', '.join(SUFFIXES)}")


def split_files(directory: Path, split: str) -> list[Path]:
    """Files of a directory that hold a split.

    Raises:
        ConfigError: There are none, or it cannot be told which ones they are.
    """
    files = sorted(f for pattern in ("*", "data/*") for f in directory.glob(pattern) if f.suffix in SUFFIXES)
    named = [f for f in files if f.stem == split or f.stem.startswith((f"{split}-", f"{split}_", f"{split}."))]
    if named:
        return named
    if len(files) == 1:
        return files
    found = ", ".join(str(f.relative_to(directory)) for f in files) or f"no file that ends in {', '.join(SUFFIXES)}"
    raise ConfigError("dataset", str(directory), f"a directory with a file for the split {split!r}; it holds {found}")


def parquet_batches(path: Path) -> Iterator[Any]:
    """``pyarrow.RecordBatch`` after ``RecordBatch`` of a parquet file.

    Raises:
        ConfigError: pyarrow is missing, or the file is not parquet.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError("dataset", str(path), "JSONL unless pyarrow is there (pip install pyarrow)") from error
    try:
        # Some publishers write dictionary-encoded or very wide row groups: reading in batches bounds the memory.
        with parquet.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=_BATCH_ROWS)
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError("dataset", str(path), f"a readable parquet file ({error})") from error


def read_hub(name: str, split: str, limit: int | None = None) -> list[Row]:
    """Rows of a hub dataset.

    Args:
        name: ``owner/name``, or ``owner/name:configuration``.
        split: Name of the split.
        limit: Most rows; None reads all.

    Raises:
        ConfigError: ``datasets`` is missing, the hub cannot be reached, or has no such dataset, configuration or split.
    """
    datasets = import_datasets(name)
    path, _, configuration = name.partition(":")
    try:
        rows = datasets.load_dataset(path, configuration or None, split=split)
    except Exception as error:
        # The hub client raises whatever its HTTP, file and parsing layers raise; to the user it is one thing.
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(
            "dataset", name, f"a dataset that the hub has, with the split {split!r} ({reason})"
        ) from error
    return [dict(row) for row in islice(rows, limit)]


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _object(line.strip(), path, number)
        except UnicodeDecodeError as error:
            raise ConfigError("dataset", str(path), f"UTF-8 text ({error})") from error


def _object(line: str, path: Path, number: int) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # integers of thousands of digits too
        raise ConfigError("dataset", str(path), f"one JSON object a line; line {number}: {error}") from error
    if not isinstance(row, dict):
        raise ConfigError("dataset", str(path), f"one JSON object a line; line {number} is a {type(row).__name__}")
    return row


def _json_list(path: Path) -> Iterator[Row]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConfigError("dataset", str(path), f"a JSON list of objects ({error})") from error
    if not isinstance(rows, list):
        raise ConfigError("dataset", str(path), f"a JSON list of objects; it is a {type(rows).__name__}")
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            kind = type(row).__name__
            raise ConfigError("dataset", str(path), f"a JSON list of objects; element {index} is a {kind}")
        yield row


def _read_saved_dataset(path: Path, split: str, limit: int | None) -> list[Row]:
    saved = import_datasets(str(path)).load_from_disk(str(path))
    if hasattr(saved, "keys"):
        if split not in saved:
            raise ConfigError("dataset", str(path), f"saved with the split {split!r}; it has {', '.join(saved)}")
        saved = saved[split]
    return [dict(row) for row in islice(saved, limit)]


def import_datasets(dataset: str) -> Any:
    """The package ``datasets``; ConfigError, naming the dataset that needs it, where it is missing."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            "dataset", dataset, "a JSONL file unless `datasets` is there (pip install datasets)"
        ) from error
    return datasets
