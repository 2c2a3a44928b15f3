"""Which films a report shows: the best and the worst seed of each task and algorithm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r2vpo.control.report.lines import Study

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
