"""Films of a study: the best and the worst seed of each task and of each of our algorithms."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r2vpo.control.evaluation import EVALUATION_SEED
from r2vpo.control.experiments.job import Job
from r2vpo.control.presets import VARIANTS

VIDEO = "video.mp4"

STEPS = 200
"""Of an episode."""

SIZE = 256
"""Pixels a side: a report holds twenty of them and more, and rendering without a GPU takes time."""


def best_and_worst(lines: Sequence[dict[str, Any]]) -> list[Job]:
    """The seeds with the highest and the lowest mean evaluation return, for each task and each of our algorithms."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for line in lines:
        job = Job.of_line(line)
        if job.algo in VARIANTS:
            groups.setdefault((job.env, job.name, job.total_steps), []).append(line)
    chosen: dict[Any, Job] = {}
    for runs in groups.values():
        for pick in (max, min):
            job = Job.of_line(pick(runs, key=lambda line: line["eval_return_mean"]))
            chosen[job.key] = job
    return list(chosen.values())


def film(jobs: Sequence[Job], runs: Path) -> list[Path]:
    """Film the deterministic policy of each run that has no film yet, from its first evaluation episode.

    A reason why there is no film is said once on standard error.

    Args:
        jobs: Runs of our own algorithms.
        runs: Folder of their run directories.

    Returns:
        The films there are.
    """
    films, said = [], set()
    for job in jobs:
        path = runs / job.folder / VIDEO
        try:
            if not path.exists():
                _film(job, path)
            films.append(path)
        except Exception as error:
            # Rendering depends on drivers that a machine may lack; every result is safe on disk by now.
            reason = f"{type(error).__name__}: {error}"
            if reason not in said:
                print(f"no video of {job.title}: {reason}", file=sys.stderr)
            said.add(reason)
    return films


def _film(job: Job, path: Path) -> None:
    from r2vpo.control.algorithm import R2VPO
    from r2vpo.control.pictures import record_video

    model = R2VPO.load(path.parent)
    unfinished = path.with_name(f"unfinished-{path.name}")
    try:
        record_video(model.act(deterministic=True), job.env, unfinished, EVALUATION_SEED + job.seed, STEPS, SIZE)
        unfinished.replace(path)
    finally:
        model.close()
        unfinished.unlink(missing_ok=True)
