"""Datasets by name, as plain lists of dicts with at least ``prompt`` and ``answer``."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from r2vpo.errors import ConfigError, shown
from r2vpo.llm.data.dapo import verl_row
from r2vpo.llm.data.files import SUFFIXES, Row, read_hub, read_path
from r2vpo.llm.data.sources import PARTS, SOURCES, read_builtin

REASONING_GYM = "reasoning-gym:"
"""Prefix of procedurally generated datasets; a reasoning-gym task follows, with settings: ``gcd,max_value=60``."""

PROCEDURAL = ("arithmetic", "expressions")
"""Built-in datasets that are generated."""

_DEFAULTS: dict[str, dict[str, Any]] = {
    "arithmetic": {"reward": ("exact",)},
    "expressions": {"reward": ("number",)},
    "gsm8k": {"reward": ("math_verify",)},
    "dapo-math-17k": {"reward": ("math_dapo",)},
    # reasoning-gym's verifiers give partial credit, and less than 1 to whatever is not right.
    REASONING_GYM: {"reward": ("reasoning_gym",), "solved_above": 0.99},
}

PROMPT_ALIASES = ("problem", "question")
"""Columns taken as the prompt where it is to be ``prompt`` and there is none."""

_SURROGATES = re.compile("[\ud800-\udfff]")

ANSWER_ALIASES = ("solution", "ground_truth")
"""Columns taken as the ground truth where it is to be ``answer`` and there is none; TRL's rewards read ``solution``."""


def builtin_names() -> tuple[str, ...]:
    """Names that :func:`load_rows` knows without a file or a hub."""
    return (*PROCEDURAL, *SOURCES, *PARTS, f"{REASONING_GYM}TASK")


def dataset_defaults(name: str) -> dict[str, Any]:
    """How the answers of a dataset are verified, and from which reward on a problem counts as solved."""
    return _DEFAULTS.get(REASONING_GYM if name.startswith(REASONING_GYM) else name, {"reward": ("math_verify",)})


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
    """Rows of a dataset as :func:`with_prompts` gives them, each also with its prompt as ``prompt``.

    A ground truth that is a number becomes text, the same whether a file writes 4 or "4".

    Args:
        name: A built-in name (:func:`builtin_names`), a JSONL, JSON or parquet file, a directory of them, or a hub
            name, ``owner/name`` or ``owner/name:configuration``.
        split: Split to read. Single files and the benchmarks have only one, which any name gives.
        limit: Most rows; None gives all.
        prompt_column: Column that holds the prompt.
        answer_column: Column that holds the ground truth.

    Raises:
        ConfigError: Unknown name, missing or unreadable file, no rows, or as there.
    """
    if limit is not None and limit < 1:
        raise ConfigError("limit", limit, "at least 1, or None")
    rows = _read(name, split, limit)
    if not rows:
        raise ConfigError("dataset", name, f"a dataset with rows; its split {split!r} is empty")
    rows = with_prompts(rows, prompt_column, answer_column, name)
    return [{**row, "prompt": row[prompt_column], **_answer_text(row)} for row in rows]


def as_rows(dataset: Any, limit: int | None = None, field: str = "dataset") -> list[Row]:
    """Rows of a dataset that is already in memory, with texts as names of their columns.

    Args:
        dataset: A ``datasets.Dataset`` or ``IterableDataset``, dicts one after the other, a dataset of torch, a pandas
            or polars data frame, or an Arrow table.
        limit: Most rows; None gives all.
        field: What messages call the dataset.

    Raises:
        ConfigError: Not a dataset, several splits at once, no rows, rows that are not objects or cannot be read, or
            two columns of one name.
    """
    kind = type(dataset).__name__
    dataset = _table_rows(dataset)
    if isinstance(dataset, Mapping):
        keys = ", ".join(map(str, dataset))
        raise ConfigError(field, kind, f"a list of rows, or one split of a dataset: {keys}")
    if isinstance(dataset, str | bytes) or not isinstance(dataset, Iterable):
        raise ConfigError(field, kind, "a list of rows or a datasets.Dataset")
    rows: list[Row] = []
    try:
        for row in islice(dataset, limit):
            rows.append(_named(row, len(rows), field))
    except ConfigError:
        raise
    except Exception as error:  # whatever the reader of a stream raises
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(field, kind, f"readable to its end; row {len(rows)} raised {reason}") from error
    if not rows:
        raise ConfigError(field, kind, "a dataset with rows; it is empty")
    return rows


def with_prompts(
    rows: Iterable[Row], prompt_column: str = "prompt", answer_column: str = "answer", name: str = "the dataset"
) -> list[Row]:
    """Rows with a prompt in the prompt's column, and with the ground truth as ``answer`` where they have one.

    Args:
        rows: Of a dataset.
        prompt_column: The default also takes :data:`PROMPT_ALIASES`.
        answer_column: The default also takes :data:`ANSWER_ALIASES` and verl's ``reward_model.ground_truth``, or no
            ground truth at all: not every reward needs one. NaN, the missing value of tables, becomes None.
        name: What messages call the dataset.

    Raises:
        ConfigError: A column that is missing, in all rows or in some, or a prompt that is neither text nor chat
            messages, with row and column.
    """
    judged = [_with_prompt(row, index, prompt_column, answer_column, name) for index, row in enumerate(rows)]
    missing = next((index for index, row in enumerate(judged) if "answer" not in row), None)
    if missing is not None and any("answer" in row for row in judged):
        raise _no_column("answer_column", answer_column, judged[missing], missing, name)
    return judged


def fingerprint(rows: Iterable[Row]) -> str:
    """Number and digest of rows; of values that JSON does not know, only their type counts.

    Raises:
        ConfigError: Values that hold themselves, or that are nested too deep for JSON.
    """
    digest, count = hashlib.sha256(), 0
    for row in rows:
        values = sorted(row.items())
        try:
            text = json.dumps(values, skipkeys=True, default=lambda value: type(value).__name__)
        except (ValueError, RecursionError) as error:
            allowed = f"made of rows that can be written down; those of row {count} cannot ({error})"
            raise ConfigError("dataset", [*row], allowed) from error
        digest.update(text.encode())
        count += 1
    return f"{count} rows, {digest.hexdigest()[:16]}"


def _answer_text(row: Row) -> Row:
    answer = row.get("answer")
    return {"answer": str(answer)} if isinstance(answer, int | float) else {}


def _named(row: Any, index: int, field: str) -> Row:
    if not isinstance(row, Mapping):
        raise ConfigError(field, type(row).__name__, f"made of rows that are dicts; row {index} is not")
    named = {str(name): value for name, value in row.items()}
    if len(named) < len(row):
        raise ConfigError(field, [*row], f"made of rows whose columns differ in name; those of row {index} do not")
    return named


def _with_prompt(row: Row, index: int, prompt_column: str, answer_column: str, name: str) -> Row:
    row = dict(row)
    if prompt_column not in row:
        alias = next((name for name in PROMPT_ALIASES if prompt_column == "prompt" and name in row), None)
        if alias is None:
            raise _no_column("prompt_column", prompt_column, row, index, name)
        row["prompt"] = row[alias]
    prompt = row[prompt_column] = _plain(row[prompt_column])
    if not _is_prompt(prompt):
        allowed = f"text or chat messages (role, content); row {index} of {name} has {shown(prompt, 80)}"
        raise ConfigError(prompt_column, prompt, allowed)
    if answer_column in row:
        row["answer"] = row[answer_column]
    elif answer_column != "answer":
        raise _no_column("answer_column", answer_column, row, index, name)
    elif (alias := next((name for name in ANSWER_ALIASES if name in row), None)) is not None:
        row["answer"] = row[alias]
    elif isinstance(model := row.get("reward_model"), dict) and model.get("ground_truth") is not None:
        row = verl_row(row)
    if isinstance(answer := row.get("answer"), float) and math.isnan(answer):
        row["answer"] = None
    return row


def _plain(value: Any) -> Any:
    """Lists in the place of arrays, as the cells of data frames have them."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return {name: _plain(item) for name, item in value.items()} if isinstance(value, dict) else value


def _table_rows(dataset: Any) -> Any:
    """Dicts, one after the other, where it is a table of columns or numbered; anything else as it is."""
    library = type(dataset).__module__.partition(".")[0]
    if library == "pandas" and hasattr(dataset, "columns"):
        frame = dataset.convert_dtypes()  # a missing value turns a column of 72 into 72.0
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
        return [_plain(row) for row in rows]
    if library == "polars" and hasattr(dataset, "to_dicts"):
        return dataset.to_dicts()
    if library == "pyarrow" and hasattr(dataset, "column_names"):
        return dataset.to_pylist()
    numbered = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and not isinstance(dataset, Iterable)
    return (dataset[index] for index in range(len(dataset))) if numbered else dataset


def _read(name: str, split: str, limit: int | None) -> list[Row]:
    if name in SOURCES or name in PARTS:
        return read_builtin(name, split, limit)
    if name == "arithmetic":
        from r2vpo.envs.arithmetic import arithmetic_rows

        return arithmetic_rows(split, limit)
    if name == "expressions":
        from r2vpo.envs.expressions import expression_rows

        return expression_rows(split, limit)
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


def _no_column(field: str, column: str, row: Row, index: int, name: str) -> ConfigError:
    return ConfigError(field, column, f"one of the columns {', '.join(sorted(row))} (row {index} of {name})")


def _is_prompt(prompt: Any) -> bool:
    if isinstance(prompt, list):
        return bool(prompt) and all(map(_is_message, prompt))
    return _is_text(prompt) and bool(prompt.strip())


def _is_message(message: Any) -> bool:
    if not isinstance(message, dict) or not {"role", "content"} <= set(message) or not _is_text(message["role"]):
        return False
    content = message["content"]
    if isinstance(content, list):
        return bool(content) and all(_is_text(part) or _is_text_part(part) for part in content)
    # a turn that only calls a tool has no content
    return _is_text(content) or (content is None and "tool_calls" in message)


def _is_text_part(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type", "text") == "text" and _is_text(part.get("text"))


def _is_text(value: Any) -> bool:
    # half of a surrogate pair is no character, and no tokenizer takes it
    return isinstance(value, str) and not _SURROGATES.search(value)
