"""Rows of reasoning-gym tasks: generated problems whose answers a verifier of the task checks."""

from __future__ import annotations

import difflib
import json
from itertools import islice
from typing import Any

from r2vpo.errors import ConfigError

SPLIT_SEEDS = {"train": 0, "test": 1_000_003}
"""Seed of each split's stream of problems."""

DEFAULT_ROWS = {"train": 10_000, "test": 500}
"""Rows of a split where no limit is given."""


def reasoning_rows(task: str, split: str = "train", limit: int | None = None, **settings: Any) -> list[dict[str, Any]]:
    """Problems of a task; those that are in the test split are left out of the training split.

    Args:
        task: Name of a reasoning-gym dataset, ``chain_sum`` say.
        split: ``train`` or ``test``.
        limit: Rows; None gives :data:`DEFAULT_ROWS`. A small task can have fewer training problems than asked for.
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
    if split == "test":
        return [_row(task, entry) for entry in _dataset(task, "test", size, settings)]
    held_out = {entry["question"] for entry in _dataset(task, "test", DEFAULT_ROWS["test"], settings)}
    # The stream is a little longer than asked for, so that leaving some out seldom shows.
    stream = _dataset(task, "train", size + size // 4 + 16, settings)
    rows = list(islice((_row(task, entry) for entry in stream if entry["question"] not in held_out), size))
    if not rows:
        raise ConfigError("dataset", f"reasoning-gym:{task}", "a task with problems outside its test split")
    return rows


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
    try:
        return reasoning_gym.create_dataset(task, size=size, seed=SPLIT_SEEDS[split], **settings)
    except (AssertionError, TypeError, ValueError) as error:
        raise ConfigError(
            "dataset", f"reasoning-gym:{task}", f"made with settings the task accepts ({error})"
        ) from error


def _row(task: str, entry: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": entry["question"], "answer": entry["answer"], "task": task, "entry": json.dumps(entry)}
