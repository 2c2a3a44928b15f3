"""Datasets by name, as plain lists of dicts with at least ``prompt`` and ``answer``."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
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

ANSWER_ALIASES = ("solution", "ground_truth")
"""Columns taken as the ground truth where it is to be ``answer`` and there is none; TRL's rewards read ``solution``."""


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
        answer_column: Column that holds the ground truth; the default also takes ``solution``, ``ground_truth`` and
            verl's ``reward_model.ground_truth``.

    Raises:
        ConfigError: Unknown name, missing or unreadable file, no rows, a missing column, a prompt that is neither
            text nor chat messages.
    """
    if limit is not None and limit < 1:
        raise ConfigError("limit", limit, "at least 1, or None")
    rows = _read(name, split, limit)
    if not rows:
        raise ConfigError("dataset", name, f"a dataset with rows; its split {split!r} is empty")
    return [_judgeable(row, index, prompt_column, answer_column) for index, row in enumerate(rows)]


def as_rows(dataset: Any, limit: int | None = None) -> list[Row]:
    """Rows of a dataset that is already in memory, with texts as names of their columns.

    Args:
        dataset: A ``datasets.Dataset`` or ``IterableDataset``, dicts one after the other, a pandas or polars data
            frame, or an Arrow table.
        limit: Most rows; None gives all.

    Raises:
        ConfigError: Not a dataset, several splits at once, no rows, rows that are not objects, or two columns of one
            name.
    """
    dataset = _table_rows(dataset)
    if isinstance(dataset, Mapping):
        keys = ", ".join(map(str, dataset))
        raise ConfigError("dataset", type(dataset).__name__, f"a list of rows, or one split of a dataset: {keys}")
    if isinstance(dataset, str | bytes) or not isinstance(dataset, Iterable):
        raise ConfigError("dataset", type(dataset).__name__, "a list of rows or a datasets.Dataset")
    rows = []
    for index, row in enumerate(islice(dataset, limit)):
        if not isinstance(row, Mapping):
            raise ConfigError("dataset", type(row).__name__, f"made of rows that are dicts; row {index} is not")
        named = {str(name): value for name, value in row.items()}
        if len(named) < len(row):
            raise ConfigError("dataset", type(dataset).__name__, f"made of rows whose columns differ in name: {[*row]}")
        rows.append(named)
    if not rows:
        raise ConfigError("dataset", type(dataset).__name__, "a dataset with rows; it is empty")
    return rows


def with_prompts(rows: Iterable[Row], prompt_column: str = "prompt", answer_column: str = "answer") -> list[Row]:
    """Rows with a prompt in the prompt's column, and a ground truth in its column where they have one.

    Args:
        rows: Of a dataset.
        prompt_column: The default also takes :data:`PROMPT_ALIASES`.
        answer_column: The default also takes :data:`ANSWER_ALIASES` and verl's ``reward_model.ground_truth``. NaN, the
            missing value of tables, becomes None.

    Raises:
        ConfigError: No such column, or a prompt that is neither text nor chat messages, with row and column.
    """
    return [_with_prompt(row, index, prompt_column, answer_column) for index, row in enumerate(rows)]


def _judgeable(row: Row, index: int, prompt_column: str, answer_column: str) -> Row:
    row = _with_prompt(row, index, prompt_column, answer_column)
    if answer_column not in row:
        raise _no_column("answer_column", answer_column, row, index)
    answer = row[answer_column]
    return {**row, "prompt": row[prompt_column], "answer": None if answer is None else str(answer)}


def fingerprint(rows: Iterable[Row]) -> str:
    """Number and digest of rows; of values that JSON does not know, only their type counts."""
    digest, count = hashlib.sha256(), 0
    for row in rows:
        values = sorted(row.items())
        digest.update(json.dumps(values, skipkeys=True, default=lambda value: type(value).__name__).encode())
        count += 1
    return f"{count} rows, {digest.hexdigest()[:16]}"


def _with_prompt(row: Row, index: int, prompt_column: str, answer_column: str) -> Row:
    row = dict(row)
    if prompt_column not in row:
        alias = next((name for name in PROMPT_ALIASES if prompt_column == "prompt" and name in row), None)
        if alias is None:
            raise _no_column("prompt_column", prompt_column, row, index)
        row["prompt"] = row[alias]
    if hasattr(row[prompt_column], "tolist"):  # messages out of a data frame
        row[prompt_column] = row[prompt_column].tolist()
    prompt = row[prompt_column]
    if not _is_prompt(prompt):
        allowed = f"text or chat messages (role, content); row {index} of the dataset has {prompt!r:.80}"
        raise ConfigError(prompt_column, prompt, allowed)
    if answer_column == "answer" and "answer" not in row:
        alias = next((name for name in ANSWER_ALIASES if name in row), None)
        if alias is not None:
            row["answer"] = row[alias]
        elif isinstance(model := row.get("reward_model"), dict) and model.get("ground_truth") is not None:
            row = verl_row(row)
    if isinstance(answer := row.get(answer_column), float) and math.isnan(answer):
        row[answer_column] = None
    return row


def _table_rows(dataset: Any) -> Any:
    """Dicts where it is a table of columns; anything else as it is."""
    library = type(dataset).__module__.partition(".")[0]
    if library == "pandas" and hasattr(dataset, "columns"):
        frame = dataset.convert_dtypes()  # a missing value turns a column of 72 into 72.0
        return frame.astype(object).where(frame.notna(), None).to_dict("records")
    if library == "polars" and hasattr(dataset, "to_dicts"):
        return dataset.to_dicts()
    return dataset.to_pylist() if library == "pyarrow" and hasattr(dataset, "column_names") else dataset


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


def _no_column(field: str, column: str, row: Row, index: int) -> ConfigError:
    return ConfigError(field, column, f"one of the columns {', '.join(sorted(row))} (row {index})")


def _is_prompt(prompt: Any) -> bool:
    if isinstance(prompt, list | tuple):
        return bool(prompt) and all(map(_is_message, prompt))
    return isinstance(prompt, str) and bool(prompt.strip())


def _is_message(message: Any) -> bool:
    if not isinstance(message, dict) or not {"role", "content"} <= set(message):
        return False
    # a turn that only calls a tool has no content
    return isinstance(message["content"], str | list) or (message["content"] is None and "tool_calls" in message)
