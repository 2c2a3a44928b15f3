"""One setting on several seeds: a run directory for each, as many processes at a time as there are cores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from r2vpo.control.config import ControlConfig
from r2vpo.control.experiments.figures import plot_seeds
from r2vpo.control.experiments.job import SeedJob
from r2vpo.control.presets import config_dict, resolve_config, saved_config
from r2vpo.envs.making import env_with, make_env, require_box_spaces
from r2vpo.errors import ConfigError, RunDirectoryError
from r2vpo.processes import usable_cores
from r2vpo.runs.checkpoint import write_text_atomically
from r2vpo.runs.directory import CONFIG, CURVE, SUMMARY, take_lock
from r2vpo.runs.plotting import load_run
from r2vpo.runs.provenance import package_versions
from r2vpo.runs.stats import bootstrap_interval, interquartile_mean
from r2vpo.runs.study import RESULTS, finished_lines, makespan, raise_failures, read_results, run_jobs

SEEDS = "seeds.json"
"""First seed, how many, and the settings."""


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
        if count < 1:
            raise ConfigError("seeds", count, "a whole number of at least 1")
        config = resolve_config(settings)
        env = make_env(env_with(config.env, config.env_kwargs))
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
            return cls(Path(path), saved_config(identity["settings"]), int(identity["seeds"]))
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
    def jobs(self) -> list[SeedJob]:
        """One for each seed, a core each."""
        settings = config_dict(self.config)
        del settings["seed"]
        settings["env_threads"] = settings["env_threads"] or 1
        return [SeedJob(seed, settings) for seed in self.seeds]

    @property
    def run_dirs(self) -> list[Path]:
        """Run directory of each seed; those that have not begun do not exist yet."""
        return [self.path / job.folder for job in self.jobs]

    @property
    def finished(self) -> list[int]:
        """Seeds that are trained, evaluated and written down."""
        ended = finished_lines(self.jobs, self.path)
        return [job.seed for job in self.jobs if job.key in ended and (self.path / job.folder / SUMMARY).is_file()]

    @property
    def workers(self) -> int:
        """Processes at a time: as many as the usable cores have room for."""
        threads = max(1, self.config.env_threads, self.config.torch_threads)
        return max(1, min(self.count, usable_cores() // threads))

    def train(self, quiet: bool = True) -> dict[str, Any]:
        """Train the seeds that are missing or half done, then write the summary and the curve of all.

        Args:
            quiet: No live table.

        Returns:
            What summary.json holds.

        Raises:
            RunDirectoryError: Another process trains here.
            R2VPOError: Seeds failed; the others are finished and saved first.
            KeyboardInterrupt: Ctrl-C; every process has saved its last iteration.
        """
        with take_lock(self.path):
            self._forget_lost_runs()
            failures = run_jobs(self.jobs, self.path, self.workers, quiet=quiet, runs=self.path, what="seed")
            raise_failures(failures, self.count, "seeds")
            summary = summarise_seeds(self.run_dirs, self.workers)
            write_text_atomically(self.path / SUMMARY, json.dumps(summary, indent=2))
            plot_seeds([self.path], self.path / CURVE)
        return summary

    def _forget_lost_runs(self) -> None:
        """A seed whose run directory was deleted is trained again."""
        results, finished = self.path / RESULTS, self.finished
        if results.exists():
            lines = [line for line in read_results(results) if line["seed"] in finished]
            write_text_atomically(results, "".join(json.dumps(line) + "\n" for line in lines))


def summarise_seeds(run_dirs: Sequence[Path], workers: int) -> dict[str, Any]:
    """What the summaries of the seeds say together.

    Args:
        run_dirs: Finished runs of one setting.
        workers: How many were trained at a time.

    Returns:
        Fields of summary.json; ``wall_seconds`` is how long training all of them takes, so many at a time. Those of the
        evaluation are missing where there was none.
    """
    runs = [read_summary(run_dir) for run_dir in run_dirs]
    wall_seconds = makespan((run["train_seconds"] for run in runs), workers)
    summary: dict[str, Any] = {name: runs[0][name] for name in ("env", "algo", "objective")}
    summary |= {
        "seeds": [run["seed"] for run in runs],
        "total_steps": runs[0]["total_steps"],
        "steps_per_second": sum(run["total_steps"] for run in runs) / wall_seconds,
        "wall_seconds": wall_seconds,
        "versions": package_versions(),
    }
    if all("eval_return_mean" in run for run in runs):
        returns = [run["eval_return_mean"] for run in runs]
        summary |= {
            "eval_return_iqm": float(interquartile_mean(returns)),
            "eval_return_interval": list(bootstrap_interval(returns)),
            "eval_returns_mean": returns,
            "eval_episodes": runs[0]["eval_episodes"],
        }
    return summary


def read_summary(run_dir: Path) -> dict[str, Any]:
    """What summary.json of a run holds.

    Raises:
        RunDirectoryError: It is damaged.
    """
    try:
        return dict(json.loads((run_dir / SUMMARY).read_text()))
    except ValueError as error:
        raise RunDirectoryError(f"{run_dir / SUMMARY} is damaged: {error}") from error


def best_run(run_dirs: Sequence[Path]) -> Path:
    """The run with the highest evaluation; with the highest last training return where none was evaluated."""

    def score(run_dir: Path) -> float:
        evaluated = read_summary(run_dir).get("eval_return_mean")
        if evaluated is not None:
            return float(evaluated)
        _, returns = load_run(run_dir).series("return")
        return float(returns[-1]) if len(returns) else -np.inf

    return max(run_dirs, key=score)


def print_report(parent: Path, run_dirs: Sequence[Path], json_copy: Path | None) -> None:
    """Print a row a seed, their interquartile mean, and where everything is.

    Args:
        parent: Directory of the seeds, with its summary.json.
        run_dirs: Their run directories.
        json_copy: Where the summary is written once more, or None.
    """
    summary = read_summary(parent)
    if json_copy is not None:
        write_text_atomically(json_copy, (parent / SUMMARY).read_text())
    for run_dir in run_dirs:
        run = read_summary(run_dir)
        print(
            f"{run_dir.name:<12}{_evaluation(run)}{run['train_seconds']:.0f} s, {run['steps_per_second']:,.0f} steps/s"
        )
    if "eval_return_iqm" in summary:
        low, high = summary["eval_return_interval"]
        print(
            f"{'IQM':<12}{summary['eval_return_iqm']:.1f} [{low:.1f}, {high:.1f}] over {len(run_dirs)} seeds "
            "(interquartile mean, 95 % bootstrap interval)"
        )
    speed = summary["steps_per_second"]
    print(f"{'trained':<12}{summary['wall_seconds']:.0f} s, {speed:,.0f} steps/s of all together")
    for name, file in (("summary", SUMMARY), ("curve", CURVE), ("video", "video.mp4")):
        if (parent / file).exists():
            print(f"{name:<12}{parent / file}")


def _evaluation(run: dict[str, Any]) -> str:
    if "eval_return_mean" not in run:
        return ""
    score = f"{run['eval_return_mean']:.1f} ± {run['eval_return_std']:.1f} over {run['eval_episodes']} episodes"
    return f"{score} (sampling actions: {run['eval_return_mean_stochastic']:.1f}), "
