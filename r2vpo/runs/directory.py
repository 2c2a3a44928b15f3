"""A run on disk: configuration, metrics, checkpoints and summary, safe against being killed at any moment."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout

from r2vpo.errors import RunDirectoryError
from r2vpo.runs.checkpoint import load_tree, save_tree, write_text_atomically
from r2vpo.runs.provenance import machine_description, package_versions, source_commit

CONFIG, VERSIONS, METRICS, SUMMARY, CURVE = (
    "config.json",
    "versions.json",
    "metrics.jsonl",
    "summary.json",
    "curve.png",
)
CHECKPOINT, BEST = Path("checkpoints") / "latest.zip", Path("checkpoints") / "best.zip"

_TAIL_BYTES = 16_384
"""More than one line of metrics.jsonl."""


def take_lock(path: Path, field: str = "run_dir") -> AcquireReturnProxy[FileLock]:
    """Make a folder, and be its only user until the lock is released.

    The lock is the operating system's, so it goes with the process however that ends.

    Args:
        path: The folder.
        field: Name of the setting that says it.

    Returns:
        The lock, taken; as a context manager it is released at the end.

    Raises:
        RunDirectoryError: The folder cannot be written, or is in use.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        return FileLock(path / "run.lock", timeout=0, thread_local=False).acquire()
    except Timeout as error:
        raise RunDirectoryError(f"{field}={str(path)!r} is in use by another process or model") from error
    except OSError as error:
        raise RunDirectoryError(f"{field}={str(path)!r} cannot be written: {error.strerror}") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the disk says inside, that it is full say, into an error that names the place.

    Raises:
        RunDirectoryError: In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        whole = "what was saved before is whole, and a run goes on from there"
        raise RunDirectoryError(f"{path} cannot be written: {error.strerror or error}; {whole}") from error


class RunDirectory:
    """Owns one run directory while the process lives.

    Args:
        path: Folder; created when missing.
        config: Written to config.json for a new run; ``None`` opens a run that exists.

    Raises:
        RunDirectoryError: Cannot be written, is used by another process, holds a run already (with ``config``), or
            holds none (without).
    """

    def __init__(self, path: str | Path, config: dict[str, Any] | None = None) -> None:
        self.path = Path(path)
        if config is None and not (self.path / CONFIG).is_file():
            raise RunDirectoryError(f"run_dir={str(path)!r} holds no run: there is no {CONFIG} in it")
        self._lock = take_lock(self.path)
        self._left: int | None = None
        """When the newest checkpoint was written, as it was left."""
        try:
            if config is not None:
                self._create(config)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def checkpoint_path(self) -> Path:
        """The newest checkpoint; it may not exist yet."""
        return self.path / CHECKPOINT

    def config(self) -> dict[str, Any]:
        """What config.json holds."""
        text = (self.path / CONFIG).read_text()
        try:
            config: dict[str, Any] = json.loads(text)
        except json.JSONDecodeError as error:
            raise RunDirectoryError(f"{self.path / CONFIG} is damaged: {error}") from error
        return config

    def update_config(self, changes: dict[str, Any]) -> None:
        """Replace entries of config.json."""
        with writing(self.path / CONFIG):
            write_text_atomically(self.path / CONFIG, _json(self.config() | changes, indent=2))

    def save_checkpoint(self, tree: dict[str, Any], name: Path = CHECKPOINT) -> None:
        """Replace the newest checkpoint, or the best."""
        with writing(self.path / name):
            save_tree(self.path / name, tree)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The newest checkpoint, or None when the run was stopped before its first."""
        return load_tree(self.checkpoint_path) if self.checkpoint_path.exists() else None

    def append_metrics(self, values: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl; ``step`` must be among them."""
        with writing(self.path / METRICS), (self.path / METRICS).open("a") as file:
            file.write(_json(values) + "\n")

    def amend_metrics(self, values: dict[str, Any]) -> None:
        """Add values to the last line of metrics.jsonl."""
        *lines, last = read_metrics(self.path)
        with writing(self.path / METRICS):
            text = "".join(_json(line) + "\n" for line in [*lines, {**values, **last}])
            write_text_atomically(self.path / METRICS, text)

    def drop_metrics_after(self, step: int) -> None:
        """Forget lines beyond a checkpoint, and a last line cut short; the resumed run writes them again."""
        path = self.path / METRICS
        if path.exists():
            kept = [json.dumps(line) for line in read_metrics(self.path) if line["step"] <= step]
            write_text_atomically(path, "".join(line + "\n" for line in kept))

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json."""
        with writing(self.path / SUMMARY):
            write_text_atomically(self.path / SUMMARY, _json(summary, indent=2))

    def hold(self) -> None:
        """Own the directory again after :meth:`close`.

        Raises:
            RunDirectoryError: Somebody else has it, or has gone on with the run since.
        """
        if not self._lock.lock.is_locked:
            self._lock = take_lock(self.path)
            if self._left != self._stamp():
                self.close()
                raise RunDirectoryError(f"run_dir={str(self.path)!r} was gone on with by somebody else: resume it")

    def _stamp(self) -> int | None:
        return self.checkpoint_path.stat().st_mtime_ns if self.checkpoint_path.exists() else None

    def close(self) -> None:
        """Give the lock back."""
        if self._lock.lock.is_locked:
            self._left = self._stamp()
        self._lock.lock.release()

    def _create(self, config: dict[str, Any]) -> None:
        if (self.path / CONFIG).exists():
            raise RunDirectoryError(
                f"run_dir={str(self.path)!r} already holds a run: resume it, or choose another folder"
            )
        started = {"commit": source_commit(), "started": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        versions = package_versions() | {"machine": machine_description()} | started
        with writing(self.path):
            (self.path / "checkpoints").mkdir(exist_ok=True)
            write_text_atomically(self.path / VERSIONS, _json(versions, indent=2))
            write_text_atomically(self.path / CONFIG, _json(config, indent=2))


def read_metrics(run_dir: str | Path) -> list[dict[str, Any]]:
    """Whole lines of a run's metrics.jsonl; a last line that a kill cut short is left out.

    Raises:
        RunDirectoryError: There is no metrics file.
    """
    path = Path(run_dir) / METRICS
    if not path.is_file():
        raise RunDirectoryError(f"{run_dir} holds no metrics: there is no {METRICS} in it")
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def newest_metrics(run_dir: Path) -> dict[str, Any]:
    """The last whole line of a run's metrics.jsonl, without reading the others; empty where there is none."""
    path = run_dir / METRICS
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = file.read().split(b"\n")
    return dict(json.loads(lines[-2])) if len(lines) > 1 else {}


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, default=str)
