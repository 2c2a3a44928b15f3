"""What the directory of several seeds holds besides their run directories, and its lock and its clock."""

from __future__ import annotations

import fcntl
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from r2vpo.checkpoint import write_text_atomically
from r2vpo.errors import RunDirectoryError

SEEDS = "seeds.json"
"""First seed, how many, and the settings."""
RESULTS = "runs.jsonl"
"""A line for each seed that ended."""
WALL = "wall_seconds.json"
"""Time spent so far, over all processes that trained here."""

_SAVE_SECONDS = 5.0


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock is the operating system's and goes with the process however that ends."""
    with (path / "run.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunDirectoryError(f"run_dir={str(path)!r} is in use by another process") from error
        yield


def wall_seconds(path: Path) -> float:
    """Seconds counted so far."""
    file = path / WALL
    return float(json.loads(file.read_text())) if file.exists() else 0.0


@contextmanager
def counting_wall_seconds(path: Path) -> Iterator[None]:
    """Add the time spent inside to what earlier calls counted; a kill loses a few seconds of it."""
    before, started, over = wall_seconds(path), time.monotonic(), threading.Event()

    def save() -> None:
        write_text_atomically(path / WALL, json.dumps(before + time.monotonic() - started))

    def keep_saving() -> None:
        while not over.wait(_SAVE_SECONDS):
            save()

    thread = threading.Thread(target=keep_saving, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        save()
