"""Rows from the Hugging Face hub."""

from __future__ import annotations

from itertools import islice
from typing import Any

from r2vpo.errors import ConfigError


def import_datasets(dataset: str) -> Any:
    """The package ``datasets``; ConfigError, naming the dataset that needs it, where it is missing."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            "dataset", dataset, "a JSONL file unless `datasets` is there (pip install datasets)"
        ) from error
    return datasets


def read_hub(name: str, split: str, limit: int | None = None) -> list[dict[str, Any]]:
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
