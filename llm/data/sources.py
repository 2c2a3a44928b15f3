"""Built-in datasets that live in files: where each is found, and how its columns become ``prompt`` and ``answer``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from r2vpo.errors import ConfigError
from r2vpo.llm.data.dapo import keep_first, read_dapo
from r2vpo.llm.data.files import Row, read_hub, read_path, split_files

DATA_DIRECTORY_VARIABLE = "R2VPO_DATA"
"""Environment variable that names a directory with the files of :data:`SOURCES`; without it, the hub is asked."""


@dataclass(frozen=True)
class Source:
    """Where a built-in dataset is found."""

    local: dict[str, str]
    """File of each split, or a directory of shards, relative to the data directory."""
    hub: dict[str, tuple[str, str]]
    """Hub name and split of each split."""


def _single(local: str, hub: str, hub_split: str) -> Source:
    return Source({"test": local}, {"test": (hub, hub_split)})


SOURCES: dict[str, Source] = {
    "gsm8k": Source(
        {"train": "gsm8k/train.jsonl", "test": "gsm8k/test.jsonl"},
        {"train": ("openai/gsm8k:main", "train"), "test": ("openai/gsm8k:main", "test")},
    ),
    "aime2024": _single("math_benchmarks/aime2024.jsonl", "HuggingFaceH4/aime_2024", "train"),
    "aime2025": _single("math_benchmarks/aime2025.jsonl", "MathArena/aime_2025", "train"),
    "amc2023": _single("math_benchmarks/amc2023.jsonl", "zwhe99/amc23", "test"),
    "hmmt_feb_2025": _single("math_benchmarks/hmmt_feb_2025.jsonl", "MathArena/hmmt_feb_2025", "train"),
    "olymmath-easy": _single("math_benchmarks/olymmath/OlymMATH-EN-EASY.jsonl", "RUC-AIBOX/OlymMATH:en-easy", "test"),
    "olymmath-hard": _single("math_benchmarks/olymmath/OlymMATH-EN-HARD.jsonl", "RUC-AIBOX/OlymMATH:en-hard", "test"),
    "dapo-math-17k": Source({"train": "dapo-math-17k"}, {"train": ("BytedTsinghua-SIA/DAPO-Math-17k", "train")}),
}
"""Built-in datasets kept in files. The benchmarks have one split, and it is the test split."""

PARTS: dict[str, tuple[str, ...]] = {"olymmath": ("olymmath-easy", "olymmath-hard")}
"""Datasets made of others, one after the other."""

PAPER_BENCHMARKS = ("aime2024", "aime2025", "amc2023", "hmmt_feb_2025", "olymmath")
"""The five benchmarks of arXiv 2601.03320."""


def read_builtin(name: str, split: str, limit: int | None = None) -> list[Row]:
    """Rows of a built-in dataset with ``prompt`` and ``answer``; the other columns stay.

    Args:
        name: Of :data:`SOURCES` or :data:`PARTS`.
        split: Of a benchmark, which has one split only, any name gives that split.
        limit: Most rows; None reads all.

    Raises:
        ConfigError: No such split, or the data is neither in the directory of ``R2VPO_DATA`` nor on the hub.
    """
    if name in PARTS:
        return [row for part in PARTS[name] for row in read_builtin(part, split)][:limit]
    source = SOURCES[name]
    if "train" not in source.local:
        split = "test"
    if split not in source.local:
        raise ConfigError("split", split, f"one of {', '.join(source.local)} for dataset={name!r}")
    rows = _read_local(name, split, limit)
    if rows is None:
        rows = _read_hub(name, split, limit)
    return [gsm8k_row(row) for row in rows] if name == "gsm8k" else rows


def gsm8k_row(row: Row) -> Row:
    """The row with what follows ``####`` as ``answer``, without thousands separators, and all of it as ``solution``.

    Raises:
        ConfigError: There is no ``####``.
    """
    solution, mark, answer = str(row.get("answer", "")).rpartition("####")
    if not mark:
        raise ConfigError("dataset", "gsm8k", f"rows whose answer has a '####'; this one is {row!r:.200}")
    plain = re.sub(r"(?<=\d),(?=\d)", "", answer.strip())
    return {**row, "answer": plain, "solution": f"{solution}{mark}{answer}"}


def _read_local(name: str, split: str, limit: int | None) -> list[Row] | None:
    """None where there is no data directory, or it lacks this dataset."""
    directory = os.environ.get(DATA_DIRECTORY_VARIABLE)
    if not directory:
        return None
    path = Path(directory).expanduser() / SOURCES[name].local[split]
    if name == "dapo-math-17k":
        single = path.with_suffix(".parquet")
        files = [single] if single.is_file() else split_files(path, split) if path.is_dir() else []
        return read_dapo(files, limit) if files else None
    return read_path(path, split, limit) if path.is_file() else None


def _read_hub(name: str, split: str, limit: int | None) -> list[Row]:
    hub_name, hub_split = SOURCES[name].hub[split]
    try:
        if name == "dapo-math-17k":
            return keep_first([read_hub(hub_name, hub_split)], limit)
        return read_hub(hub_name, hub_split, limit)
    except ConfigError as error:
        local = SOURCES[name].local[split]
        allowed = f"at {local} in the directory that {DATA_DIRECTORY_VARIABLE} names, or {error.allowed}"
        raise ConfigError("dataset", name, allowed) from error
