"""Datasets by name, as plain lists of dicts with at least ``prompt`` and ``answer``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from r2vpo.errors import ConfigError
from r2vpo.llm.data.dapo import verl_row
from r2vpo.llm.data.files import SUFFIXES, Row, read_hub, read_path
from r2vpo.llm.data.sources import PARTS, SOURCES, read_builtin

REASONING_GYM = "reasoning-gym:"
"""Prefix of procedurally generated datasets; a reasoning-gym task follows, with settings: ``gcd,max_value=60``."""

PROCEDURAL = ("arithmetic",)
"""Built-in datasets that are generated."""

PROMPT_ALIASES = ("problem", "question")
"""Columns taken as the prompt where it is to be ``prompt`` and there is none."""


def builtin_names() -> tuple[str, ...]:
    """Names that :func:`load_rows` knows without a file or a hub."""
    return (*PROCEDURAL, *SOURCES, *PARTS, f"{REASONING_GYM}TASK")


def has_held_out_split(name: str) -> bool:
    """Whether a built-in dataset has problems to train on and others to test on."""
    return name in PROCEDURAL or name.startswith(REASONING_GYM) or (name in SOURCES and len(SOURCES[name].local) > 1)


def load_rows(
    name: str,
    split: str = "train",
    limit: int | None = None,
    prompt_column: str = "prompt",
    answer_column: str = "answer",
) -> list[Row]:
    """Rows of a dataset, each with ``prompt`` (text or chat messages) and ``answer``; the other columns stay.

    Args:
        name: A built-in name (:func:`builtin_names`), a JSONL, JSON or parquet file, a directory of them, or a hub
            name, ``owner/name`` or ``owner/name:configuration``.
        split: Split to read. Single files and the benchmarks have only one, which any name gives.
        limit: Most rows; None gives all.
        prompt_column: Column that holds the prompt; the default also takes ``problem`` and ``question``.
        answer_column: Column that holds the ground truth; the default also takes verl's ``reward_model.ground_truth``.

    Raises:
        ConfigError: Unknown name, missing or unreadable file, no rows, a missing column, a prompt that is neither
            text nor chat messages.
    """
    if limit is not None and limit < 1:
        raise ConfigError("limit", limit, "at least 1, or None")
    rows = _read(name, split, limit)
    if not rows:
        raise ConfigError("dataset", name, f"a dataset with rows; its split {split!r} is empty")
    return [_normalised(row, i, name, prompt_column, answer_column) for i, row in enumerate(rows)]


def as_rows(dataset: Any, limit: int | None = None) -> list[Row]:
    """Rows of a dataset that is already in memory, or of a ``datasets.Dataset`` or ``IterableDataset``.

    Args:
        dataset: Rows, one after the other.
        limit: Most rows; None gives all.

    Raises:
        ConfigError: Not a dataset, several splits at once, no rows, or rows that are not objects.
    """
    if isinstance(dataset, Mapping):
        keys = ", ".join(map(str, dataset))
        raise ConfigError("dataset", type(dataset).__name__, f"a list of rows, or one split of a dataset: {keys}")
    if isinstance(dataset, str | bytes) or not isinstance(dataset, Iterable):
        raise ConfigError("dataset", type(dataset).__name__, "a list of rows or a datasets.Dataset")
    rows = []
    for index, row in enumerate(islice(dataset, limit)):
        if not isinstance(row, Mapping):
            raise ConfigError("dataset", type(row).__name__, f"made of rows that are dicts; row {index} is not")
        rows.append(dict(row))
    if not rows:
        raise ConfigError("dataset", type(dataset).__name__, "a dataset with rows; it is empty")
    return rows


def _read(name: str, split: str, limit: int | None) -> list[Row]:
    if name in SOURCES or name in PARTS:
        return read_builtin(name, split, limit)
    if name == "arithmetic":
        from r2vpo.envs.arithmetic import arithmetic_rows

        return arithmetic_rows(split, limit)
    if name.startswith(REASONING_GYM):
        from r2vpo.envs.reasoning import parse_task, reasoning_rows

        task, settings = parse_task(name.removeprefix(REASONING_GYM))
        return reasoning_rows(task, split, limit, **settings)
    if _is_path(name):
        return read_path(Path(name).expanduser(), split, limit)
    if name.count("/") == 1:
        return read_hub(name, split, limit)
    raise ConfigError("dataset", name, _known(name))


def _is_path(name: str) -> bool:
    path = Path(name).expanduser()
    return path.exists() or path.is_absolute() or name.startswith(".") or path.suffix in SUFFIXES


def _known(name: str) -> str:
    close = difflib.get_close_matches(name, builtin_names(), n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"one of {', '.join(builtin_names())}, an existing file or directory, or a hub name owner/name{hint}"


def _normalised(row: Row, index: int, name: str, prompt_column: str, answer_column: str) -> Row:
    if answer_column == "answer" and "answer" not in row and "reward_model" in row:
        row = verl_row(row)
    prompt = row[_column(row, index, "prompt_column", prompt_column, PROMPT_ALIASES)]
    answer = row[_column(row, index, "answer_column", answer_column, ())]
    if not _is_prompt(prompt):
        raise ConfigError(
            "dataset", name, f"made of prompts that are text or chat messages; row {index} has {prompt!r:.80}"
        )
    return {**row, "prompt": prompt, "answer": answer if answer is None else str(answer)}


def _column(row: Row, index: int, field: str, column: str, aliases: Sequence[str]) -> str:
    if column in row:
        return column
    if column == "prompt":
        for alias in aliases:
            if alias in row:
                return alias
    raise ConfigError(field, column, f"one of the columns {', '.join(sorted(map(str, row)))} (row {index})")


def _is_prompt(prompt: Any) -> bool:
    if isinstance(prompt, list):
        return bool(prompt) and all(isinstance(m, dict) and {"role", "content"} <= set(m) for m in prompt)
    return isinstance(prompt, str) and bool(prompt.strip())
