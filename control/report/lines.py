"""Study lines for a report: read from files, checked, in an order that does not depend on when runs ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2vpo.control.experiments.job import Job
from r2vpo.errors import ConfigError, R2VPOError

LINES = "runs.jsonl"
"""The file of a folder."""
TRACES = ("ratio_variance", "lam")
"""Fields that a line may have, on the grid of its steps."""


@dataclass(frozen=True)
class Study:
    """The runs that a report is about."""

    runs: list[dict[str, Any]]
    """Study lines by task, algorithm and seed, each with ``folder``, where its file lies. ``algo`` names the settings
    too that a line has of its own: another setting is another algorithm."""
    newest: str
    """When the newest line was written."""
    newest_is_file_time: bool
    """No line says when it was written; the newest file's time stands for it."""

    @property
    def tasks(self) -> list[str]:
        """In the order of the lines."""
        return list(dict.fromkeys(run["env"] for run in self.runs))

    @property
    def algorithms(self) -> list[str]:
        """In the order of the lines."""
        return list(dict.fromkeys(run["algo"] for run in self.runs))

    def of(self, env: str, algo: str) -> list[dict[str, Any]]:
        """Runs of one task and algorithm by seed; may be none."""
        return [run for run in self.runs if run["env"] == env and run["algo"] == algo]

    def final_returns(self, env: str, algo: str) -> NDArray[np.float64]:
        """``[runs]``: mean return of the last policy's evaluation episodes."""
        return np.array([run["eval_return_mean"] for run in self.of(env, algo)], dtype=np.float64)

    def curves(self, env: str, algo: str) -> NDArray[np.float64]:
        """``[runs, windows]`` of the training return on the grid of steps, NaN where no episode ended."""
        return as_curves([run["returns"] for run in self.of(env, algo)])


def as_curves(rows: Sequence[Sequence[float | None]]) -> NDArray[np.float64]:
    """``[rows, windows]``, NaN for None."""
    return np.array([[np.nan if value is None else value for value in row] for row in rows], dtype=np.float64)


def read_study(paths: Sequence[Path]) -> Study:
    """Read and check study lines.

    Args:
        paths: Files of study lines, or folders that hold a runs.jsonl.

    Raises:
        ConfigError: Nothing given, a file that is missing, or lines that do not belong into one report.
        R2VPOError: A file without lines, or a line that is damaged or lacks a field.
    """
    if not paths:
        raise ConfigError("lines", (), f"files of study lines, or folders that hold a {LINES}")
    files = [_file_of(path) for path in paths]
    runs = [run for file in files for run in _read(file)]
    for check in (_check_once, _check_budgets, _check_grids):
        check(runs)
    tasks, algorithms = ({name: i for i, name in enumerate(dict.fromkeys(r[f] for r in runs))} for f in ("env", "algo"))
    runs.sort(key=lambda run: (tasks[run["env"]], algorithms[run["algo"]], run["seed"]))
    dates = [run["date"] for run in runs if isinstance(run.get("date"), str)]
    newest = max(file.stat().st_mtime for file in files)
    file_time = datetime.fromtimestamp(newest, UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Study(runs, max(dates) if dates else file_time, not dates)


def _file_of(path: Path) -> Path:
    file = path / LINES if path.is_dir() else path
    if not file.is_file():
        raise ConfigError("lines", str(path), f"a file of study lines, or a folder that holds a {LINES}")
    return file


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        texts = file.read_text().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise R2VPOError(f"{file} cannot be read: {error}") from error
    runs = []
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            run = json.loads(text)
        except json.JSONDecodeError as error:
            # A line without its end was cut short by a kill; its run is done again when the study goes on.
            if number == len(texts):
                continue
            raise R2VPOError(f"{file}, line {number}: not JSON: {error}") from error
        _check_line(run, f"{file}, line {number}")
        runs.append({**run, "algo": Job.of_line(run).name, "folder": file.parent})
    if not runs:
        raise R2VPOError(f"{file} holds no study line")
    return runs


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _points(value: Any) -> bool:
    return isinstance(value, list) and all(point is None or _number(point) for point in value)


FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "algo": (lambda value: isinstance(value, str) and bool(value), "a name"),
    "env": (lambda value: isinstance(value, str) and bool(value), "a name"),
    "seed": (_whole, "a whole number"),
    "total_steps": (lambda value: _whole(value) and value > 0, "a whole number of at least 1"),
    "eval_return_mean": (_number, "a finite number"),
    "steps": (
        lambda value: isinstance(value, list) and bool(value) and all(map(_number, value)) and value == sorted(value),
        "a list of ascending numbers",
    ),
    "returns": (_points, "a list of numbers and nulls"),
    "wall_seconds": (_positive, "a number above 0"),
    "steps_per_second": (_positive, "a number above 0"),
}
"""What every line has: its test, and what is allowed in words."""


def _check_line(run: Any, where: str) -> None:
    if not isinstance(run, dict):
        raise R2VPOError(f"{where}: a study line is an object with the fields {', '.join(FIELDS)}")
    for field, (allowed, words) in FIELDS.items():
        if field not in run:
            raise R2VPOError(f"{where} has no field {field!r}; a study line has {', '.join(FIELDS)}")
        if not allowed(run[field]):
            raise R2VPOError(f"{where}: {field}={_shown(run[field])} is not allowed: {field} must be {words}")
    if not isinstance(run.get("settings", {}), dict):
        raise R2VPOError(f"{where}: settings={_shown(run['settings'])} is not allowed: settings must be an object")
    if run.get("success_rate") is not None and not _number(run["success_rate"]):
        shown = _shown(run["success_rate"])
        raise R2VPOError(f"{where}: success_rate={shown} is not allowed: success_rate must be a finite number")
    for field in ("returns", *TRACES):
        points = run.get(field)
        if points is not None and not (_points(points) and len(points) == len(run["steps"])):
            words = f"a number or null for each of the {len(run['steps'])} steps"
            raise R2VPOError(f"{where}: {field}={_shown(points)} is not allowed: {field} must be {words}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_once(runs: Sequence[dict[str, Any]]) -> None:
    seen = set()
    for run in runs:
        key = run["env"], run["algo"], run["seed"]
        if key in seen:
            found = f"{run['seed']}, twice for {run['algo']} on {run['env']}"
            raise ConfigError("seed", found, "in one line only for each task and algorithm")
        seen.add(key)


def _check_budgets(runs: Sequence[dict[str, Any]]) -> None:
    for env in dict.fromkeys(run["env"] for run in runs):
        totals = sorted({run["total_steps"] for run in runs if run["env"] == env})
        if len(totals) > 1:
            found = f"{' and '.join(map(str, totals))} on {env}"
            raise ConfigError("total_steps", found, "the same in every run of a task")


def _check_grids(runs: Sequence[dict[str, Any]]) -> None:
    for env in dict.fromkeys(run["env"] for run in runs):
        grids = {tuple(run["steps"]): f"{run['algo']}, seed {run['seed']}" for run in runs if run["env"] == env}
        if len(grids) > 1:
            raise ConfigError("steps", f"differs on {env} ({'; '.join(grids.values())})", "the same grid in every run")


FILM = "video.mp4"


def choose_videos(study: Study, tasks: int | None) -> list[dict[str, Any]]:
    """The best and the worst run by final return of each task and algorithm, with their film where there is one.

    Args:
        study: The runs.
        tasks: How many tasks are shown, the first ones; None for all.

    Returns:
        A row each: task, algorithm, ``best`` or ``worst`` (``only`` where there is one seed), seed, final return, and
        ``path`` or None.
    """
    rows = []
    for env in study.tasks[:tasks]:
        for algo in study.algorithms:
            runs = sorted(study.of(env, algo), key=lambda run: run["eval_return_mean"])
            if len(runs) == 1:
                rows.append(_row("only", runs[0]))
            elif runs:
                rows += [_row("best", runs[-1]), _row("worst", runs[0])]
    return rows


def _row(kind: str, run: dict[str, Any]) -> dict[str, Any]:
    return {
        "env": run["env"],
        "algo": run["algo"],
        "kind": kind,
        "seed": run["seed"],
        "eval_return_mean": run["eval_return_mean"],
        "path": _film(run),
    }


def _film(run: dict[str, Any]) -> Path | None:
    if not isinstance(run.get("run_dir"), str):
        return None
    path = Path(run["folder"]) / run["run_dir"] / FILM
    return path if path.is_file() and path.stat().st_size else None
