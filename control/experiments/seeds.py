"""One setting on several seeds: a run directory for each, as many processes at a time as there are cores."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from r2vpo.control.config import ControlConfig
from r2vpo.control.experiments.seed_summary import plot_seeds, summarise_seeds
from r2vpo.control.experiments.seed_worker import (
    LAMBDA,
    RATIO_VARIANCE,
    RETURN,
    SeedJob,
    newest_metrics,
    seed_directory,
)
from r2vpo.control.presets import config_dict, resolve_config
from r2vpo.envs.making import make_env, require_box_spaces
from r2vpo.errors import R2VPOError, RunDirectoryError
from r2vpo.runs.checkpoint import write_text_atomically
from r2vpo.runs.directory import CONFIG, CURVE, SUMMARY
from r2vpo.runs.live_table import LiveTable
from r2vpo.runs.study import Cell, read_results, run_cells
from r2vpo.validation import whole

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


GRACE_SECONDS = 30.0
"""After Ctrl-C the processes have this long to finish their iteration and save."""


def train_seeds(
    env: str, seeds: int, run_dir: str | Path, *, seed: int = 0, quiet: bool = True, **settings: Any
) -> dict[str, Any]:
    """Train one setting on several seeds; returns what the parent's summary.json holds.

    Args:
        env: Gymnasium id.
        seeds: How many.
        run_dir: Parent of the run directories ``seed0``, ``seed1``, ...
        seed: The first; the others follow it.
        quiet: No live table.
        settings: Fields of :class:`r2vpo.control.config.ControlConfig`; the rest comes from the task's preset.

    Raises:
        ConfigError: A setting is unknown or outside its range, or the spaces do not fit.
        RunDirectoryError: ``run_dir`` cannot be written or holds runs already.
        R2VPOError: Seeds failed; the others are finished and saved first.
        KeyboardInterrupt: Ctrl-C; everything is saved.
    """
    return SeedStudy.create(run_dir, {**settings, "env": env, "seed": seed}, seeds).train(quiet)


@dataclass(frozen=True)
class SeedStudy:
    """A directory with a run directory for each seed."""

    path: Path
    config: ControlConfig
    """Settings of the first seed."""
    count: int

    @classmethod
    def create(cls, path: str | Path, settings: dict[str, Any], count: int) -> SeedStudy:
        """Check everything and make the directory; nothing is trained yet.

        Raises:
            ConfigError: A setting or the number of seeds is not allowed, or the spaces do not fit.
            RunDirectoryError: The directory cannot be written, or holds runs already.
        """
        whole("seeds", 1)(SimpleNamespace(seeds=count))
        config = resolve_config(settings)
        env = make_env(config.env)
        try:
            require_box_spaces(env)
        finally:
            env.close()
        study = cls(Path(path), config, count)
        if (study.path / SEEDS).exists() or (study.path / CONFIG).exists():
            raise RunDirectoryError(f"run_dir={str(path)!r} already holds a run: resume it, or choose another folder")
        identity = {"seed": config.seed, "seeds": count, "settings": config_dict(config)}
        try:
            study.path.mkdir(parents=True, exist_ok=True)
            write_text_atomically(study.path / SEEDS, json.dumps(identity, indent=2))
        except OSError as error:
            raise RunDirectoryError(f"run_dir={str(path)!r} cannot be written: {error.strerror}") from error
        return study

    @classmethod
    def open(cls, path: str | Path) -> SeedStudy:
        """The study that a directory holds.

        Raises:
            RunDirectoryError: There is none, or its seeds.json is damaged.
        """
        file = Path(path) / SEEDS
        try:
            identity = json.loads(file.read_text())
            return cls(Path(path), ControlConfig(**identity["settings"]), int(identity["seeds"]))
        except FileNotFoundError as error:
            raise RunDirectoryError(f"run_dir={str(path)!r} holds no seeds: there is no {SEEDS} in it") from error
        except (ValueError, KeyError, TypeError) as error:
            raise RunDirectoryError(f"{file} is damaged: {error}") from error

    @property
    def description(self) -> str:
        """One line that says what is trained and where."""
        config, seeds = self.config, self.seeds
        return (
            f"{config.objective} {config.algo} on {config.env}: {config.total_steps:,} steps, seeds {seeds[0]} to "
            f"{seeds[-1]}, {config.num_envs} environments each, {self.workers} at a time -> {self.path}"
        )

    @property
    def seeds(self) -> range:
        """All of them, in order."""
        return range(self.config.seed, self.config.seed + self.count)

    @property
    def run_dirs(self) -> list[Path]:
        """Run directory of each seed; those that have not begun do not exist yet."""
        return [seed_directory(self.path, seed) for seed in self.seeds]

    @property
    def finished(self) -> list[int]:
        """Seeds that are trained, evaluated and written down."""
        ended = {line["seed"] for line in read_results(self.path / RESULTS)}
        return [seed for seed in self.seeds if seed in ended and (seed_directory(self.path, seed) / SUMMARY).is_file()]

    @property
    def workers(self) -> int:
        """Processes at a time: as many as the usable cores have room for."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = max(1, self.config.env_threads, self.config.torch_threads)
        return max(1, min(self.count, cores // threads))

    def train(self, quiet: bool = True) -> dict[str, Any]:
        """Train the seeds that are missing or half done, then write the summary and the curve of all; see above.

        Args:
            quiet: No live table.

        Returns:
            What summary.json holds.

        Raises:
            RunDirectoryError: Another process trains here.
            R2VPOError: Seeds failed; the others are finished and saved first.
            KeyboardInterrupt: Ctrl-C; every process has saved its last iteration.
        """
        with locked(self.path):
            self._forget_lost_runs()
            failures = self._run(quiet) if len(self.finished) < self.count else []
            if failures:
                raise R2VPOError(f"{len(failures)} of {self.count} seeds failed; the first: {failures[0]}")
            summary = summarise_seeds(self.run_dirs, wall_seconds(self.path))
            write_text_atomically(self.path / SUMMARY, json.dumps(summary, indent=2))
            plot_seeds([self.path], self.path / CURVE)
        return summary

    def _run(self, quiet: bool) -> list[str]:
        settings = config_dict(self.config)
        del settings["seed"]
        settings["env_threads"] = settings["env_threads"] or 1
        size = self.config.total_steps
        cells = [Cell(SeedJob(seed, settings), seed, size, f"seed {seed}") for seed in self.seeds]
        table = LiveTable(
            "seed", {seed: (str(seed), size) for seed in self.seeds}, (RETURN, RATIO_VARIANCE, LAMBDA), quiet=quiet
        )
        for seed, run_dir in zip(self.seeds, self.run_dirs, strict=True):
            table.update(seed, "waiting", newest_metrics(run_dir).get("step", 0), {})
        with counting_wall_seconds(self.path):
            return run_cells(
                cells,
                self.path / RESULTS,
                lambda line: line["seed"],
                "r2vpo.control.experiments.seed_worker",
                self.path,
                self.workers,
                "steps",
                display=table,
                environment={"OMP_NUM_THREADS": "1"},
                grace=GRACE_SECONDS,
            )

    def _forget_lost_runs(self) -> None:
        """A seed whose run directory was deleted is trained again."""
        results, finished = self.path / RESULTS, self.finished
        if results.exists():
            lines = [line for line in read_results(results) if line["seed"] in finished]
            write_text_atomically(results, "".join(json.dumps(line) + "\n" for line in lines))
