"""Rows of reasoning-gym tasks: generated problems whose answers a verifier of the task checks.

A task is named with its settings, ``chain_sum,max_terms=3,max_digits=1``: the name is what a run's configuration
records.
"""

from __future__ import annotations

import difflib
import json
from itertools import islice, takewhile
from typing import Any

from r2vpo.errors import ConfigError

SPLIT_SEEDS = {"test": 1_000_003, "validation": 2_000_003, "train": 0}
"""Seed of each split's stream of problems. What two streams have belongs to the split that comes first here."""

DEFAULT_ROWS = {"test": 500, "validation": 500, "train": 10_000}
"""Rows of a split where no limit is given."""


def parse_task(name: str) -> tuple[str, dict[str, Any]]:
    """Task and settings of a name such as ``gcd,max_value=60``; values are JSON, and what is not JSON is text.

    Raises:
        ConfigError: A setting without a value, or one that is given twice.
    """
    task, *words = name.split(",")
    settings: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals and value) or key in settings:
            raise ConfigError(
                "dataset", f"reasoning-gym:{name}", f"TASK,setting=value,... with each once; not {word!r}"
            )
        settings[key] = _value(value)
    return task, settings


def reasoning_rows(task: str, split: str = "train", limit: int | None = None, **settings: Any) -> list[dict[str, Any]]:
    """Problems of a task. No problem of the test or the validation split is in another split.

    Args:
        task: Name of a reasoning-gym dataset, ``chain_sum`` say.
        split: ``train``, ``validation`` (which warm starts watch) or ``test``.
        limit: Rows; None gives :data:`DEFAULT_ROWS`. A small task can have fewer problems than asked for.
        settings: Of the task, its difficulty say.

    Returns:
        Rows with ``prompt``, ``answer`` (None in tasks that accept many answers and name none), ``task`` and
        ``entry``: the item as reasoning-gym made it, as JSON, which its verifier needs.

    Raises:
        ConfigError: reasoning-gym is missing, no such task or split, or settings that the task rejects.
    """
    if split not in SPLIT_SEEDS:
        raise ConfigError("split", split, f"one of {', '.join(SPLIT_SEEDS)}")
    size = DEFAULT_ROWS[split] if limit is None else limit
    held_out = {
        entry["question"]
        for other in takewhile(lambda other: other != split, SPLIT_SEEDS)
        for entry in _dataset(task, other, DEFAULT_ROWS[other], settings)
    }
    stream = _dataset(task, split, size, settings)
    rows = list(islice((_row(task, entry) for entry in stream if entry["question"] not in held_out), size))
    if not rows:
        raise ConfigError("dataset", f"reasoning-gym:{task}", f"a task with {split} problems outside its held-out ones")
    return rows


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _dataset(task: str, split: str, size: int, settings: dict[str, Any]) -> Any:
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        name = f"reasoning-gym:{task}"
        raise ConfigError(
            "dataset", name, "another one unless reasoning-gym is there (pip install reasoning-gym)"
        ) from error
    if task not in DATASETS:
        close = difflib.get_close_matches(task, DATASETS, n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else f": {', '.join(sorted(DATASETS))}"
        raise ConfigError("dataset", f"reasoning-gym:{task}", f"one of {len(DATASETS)} tasks{hint}")
    # A little longer than asked for, so that leaving some out seldom shows.
    drawn = size if split == "test" else size + size // 4 + 16
    try:
        return reasoning_gym.create_dataset(task, size=drawn, seed=SPLIT_SEEDS[split], **settings)
    except (AssertionError, TypeError, ValueError) as error:
        raise ConfigError(
            "dataset", f"reasoning-gym:{task}", f"made with settings the task accepts ({error})"
        ) from error


def _row(task: str, entry: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": entry["question"], "answer": entry["answer"], "task": task, "entry": json.dumps(entry)}
