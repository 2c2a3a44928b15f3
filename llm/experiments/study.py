"""``r2vpo llm study``: how many rollouts each method needs for GRPO's best accuracy, each at its best settings.

Three stages a task, every one of them goes on where it stopped: a search that gives all rows equally many settings (all
of them on the first search seed, the best third on the others as well), the chosen settings on seeds of their own, and
sweeps around them over one setting at a time.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from r2vpo.errors import ConfigError, R2VPOError
from r2vpo.llm.experiments.compare import check_jobs, compare_jobs, make_models
from r2vpo.llm.experiments.rows import FEWEST, ROWS, Settings, candidates
from r2vpo.llm.experiments.sweeps import CLOSE, changes, stability
from r2vpo.llm.experiments.worker import Job
from r2vpo.runs.study import COMPARISON, finished_lines, run_jobs
from r2vpo.runs.workers import Line

SEARCH, FINAL, SWEEPS = "search", "final", "sweeps"
CHOSEN, STABILITY = "chosen.json", "stability.json"
FIRST_SEARCH_SEED = 100
"""Search and sweeps use seeds from here on, the final stage those from 0."""
FINALISTS = 3
"""One in so many settings of a row goes on to the other search seeds."""

Stage = Literal["search", "final", "sweeps"]


@dataclass(frozen=True)
class Task:
    """What is trained on; the tiny model of the same name is trained."""

    name: str
    rollouts: int
    """Of a run of the final stage; half as many in the search."""


TASKS = {
    "arithmetic": Task("arithmetic", 25_600),
    "chain_sum": Task("reasoning-gym:chain_sum,min_terms=3,max_terms=3,max_digits=1", 25_600),
    "expressions": Task("expressions", 20_480),
}
_GONE = {"spell_backward": "left out: it memorises words and ranked no methods; expressions has taken its place"}


@dataclass(frozen=True)
class StudyCommand:
    """Search every method's settings alike, train the best on seeds of their own, and sweep UTD and buffer.

    Each task has a folder, each stage one in it, with a JSON line a run; the same command goes on where it was stopped
    or killed. The answer is final/comparison.json.
    """

    tasks: tuple[str, ...] = tuple(TASKS)
    """Among arithmetic, chain_sum and expressions."""
    rows: tuple[str, ...] = tuple(ROWS)
    """Methods, those with replay under the same buffer."""
    stages: tuple[Stage, ...] = ("search", "final", "sweeps")
    """In this order."""
    settings: int = FEWEST
    """Settings that the search tries for each row."""
    search_seeds: int = 3
    """Seeds of the search: all settings run on the first of them, the best third on the others too."""
    seeds: int = 8
    """Seeds of the final stage."""
    sweep_rows: tuple[str, ...] = ("grpo-replay", "r2vpo-off")
    """Those of the rows to sweep over UTD 1 to 32 and buffers of 1 to 8; r2vpo-off also over anchor, penalty, dual."""
    sweep_seeds: int = 3
    """Seeds of the sweeps."""
    scale: float = 1.0
    """Multiplies the rollouts of every run."""
    eval_every: int = 2
    """Iterations of 512 rollouts between evaluations: the resolution of the answer."""
    out: Path = Path("runs/llm-study")
    """Folder of everything."""
    workers: int = 2
    """Runs at a time, one torch thread each."""
    list: bool = False
    """Only say how many runs each stage has, how many are done, and how long the others will take."""
    quiet: bool = False
    """No live table."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    command = tyro.cli(StudyCommand, args=list(arguments), prog="r2vpo llm study")
    _check(command)
    failed: dict[str, R2VPOError] = {}
    for name, stage in itertools.product(command.tasks, command.stages):
        if command.list:
            print(f"{name:12} {stage:8} {_state(command, name, stage)}")
            continue
        try:
            _run(command, name, stage)
        except R2VPOError as error:  # the other stages and tasks are worth having
            print(f"{name}, {stage}: {error}", file=sys.stderr)
            failed[f"{name}, {stage}"] = error
    if failed:
        raise R2VPOError(f"not whole: {'; '.join(failed)}; the same command tries them again")
    return 0


def screening_jobs(command: StudyCommand, task: Task) -> list[Job]:
    """Every setting of every row on the first search seed, the rows by turns."""
    settings = zip(*(candidates(ROWS[name], command.settings) for name in command.rows), strict=True)
    return [
        _job(command, task, name, FIRST_SEARCH_SEED, own, command.scale / 2)
        for of_all_rows in settings
        for name, own in zip(command.rows, of_all_rows, strict=True)
    ]


def finalist_jobs(command: StudyCommand, screened: Sequence[Job], lines: Iterable[Line]) -> list[Job]:
    """The best third of each row's settings, by their lines, on the other search seeds; without a line is worst."""
    scores = {Job.of_line(line).key: area(line) for line in lines}
    seeds = range(FIRST_SEARCH_SEED + 1, FIRST_SEARCH_SEED + command.search_seeds)
    best: list[Job] = []
    for name in command.rows:
        own = sorted((job for job in screened if job.label == name and job.key in scores), key=lambda j: -scores[j.key])
        best += own[: -(-command.settings // FINALISTS)]
    return [replace(job, seed=seed) for seed in seeds for job in best]


def final_jobs(command: StudyCommand, task: Task, chosen: dict[str, Settings]) -> list[Job]:
    """The chosen settings of each row on the final seeds, a seed after the other."""
    return [
        replace(_job(command, task, name, seed, settings, command.scale), keep=True)
        for seed in range(command.seeds)
        for name, settings in chosen.items()
    ]


def sweep_jobs(command: StudyCommand, task: Task, chosen: dict[str, Settings]) -> list[Job]:
    """The chosen settings of the swept rows, with one of them changed at a time."""
    seeds = range(FIRST_SEARCH_SEED, FIRST_SEARCH_SEED + command.sweep_seeds)
    return [
        replace(_job(command, task, name, seed, {**settings, **change}, command.scale), label=f"{name} {label}")
        for seed in seeds
        for name, settings in chosen.items()
        for label, change in changes(name, ROWS[name])
    ]


def area(line: Line) -> float:
    """Mean sampled pass@1 from the start to the end of a run: rewards learning early and ending high."""
    return float(np.mean([line["first_pass_at_1"], *line["passes_at_1"]]))


def choose(lines: Sequence[Line], rows: Sequence[str], seeds: int) -> dict[str, Settings]:
    """Of each row the settings with the largest mean area among those that have run on all search seeds.

    Raises:
        ConfigError: A row has none.
    """
    areas: dict[str, list[float]] = {}
    for line in lines:
        areas.setdefault(line_key(line), []).append(area(line))
    chosen = {}
    for name in rows:
        whole = {line_key(line): line["settings"] for line in lines if line["label"] == name}
        whole = {key: settings for key, settings in whole.items() if len(areas[key]) >= seeds}
        if not whole:
            raise ConfigError("stages", "final", f"behind a search: there is none of {name} on {seeds} seeds")
        best = max(whole, key=lambda key: float(np.mean(areas[key])))
        chosen[name] = {key: value for key, value in whole[best].items() if key != "eval_every"}
    return chosen


def line_key(of: Line | Job) -> str:
    """Row and settings of a run: the same for all its seeds."""
    label, settings = (of.label, of.settings) if isinstance(of, Job) else (of["label"], of["settings"])
    return json.dumps([label, settings], sort_keys=True)


def _job(command: StudyCommand, task: Task, row: str, seed: int, settings: Settings, scale: float) -> Job:
    rollouts = max(512, round(task.rollouts * scale))
    wanted = {**settings, "eval_every": command.eval_every}
    return Job(ROWS[row].method, seed, task.name, task.name, rollouts, wanted, row)


def _run(command: StudyCommand, name: str, stage: str) -> None:
    """One stage of one task, to its end."""
    from r2vpo.runs.directory import take_lock

    task, folder = TASKS[name], command.out / name / stage
    if stage != SEARCH:
        try:
            compare_jobs(_jobs(command, name, stage), folder, command.workers, command.quiet)
        finally:
            if stage == SWEEPS and (folder / COMPARISON).exists():
                _write_stability(command, name, folder)
        return
    screened = screening_jobs(command, task)
    check_jobs(screened)
    make_models(screened)
    with take_lock(folder, "out"):
        # Settings that break a method are a finding of the search, no end of the study.
        failures = run_jobs(screened, folder, command.workers, quiet=command.quiet)
        finalists = finalist_jobs(command, screened, finished_lines(screened, folder).values())
        failures += run_jobs(finalists, folder, command.workers, quiet=command.quiet)
        chosen = _chosen(command, name, command.rows)
        (folder / CHOSEN).write_text(json.dumps(chosen, indent=1) + "\n")
    for failure in failures:
        print(failure, file=sys.stderr)
    for row, settings in chosen.items():
        print(f"{name}: {row:20} {settings}")
    print(f"{folder / CHOSEN} ({task.name})")


def _jobs(command: StudyCommand, name: str, stage: str) -> list[Job]:
    """Of a stage, as far as they are known."""
    task, folder = TASKS[name], command.out / name / SEARCH
    if stage == SEARCH:
        screened = screening_jobs(command, task)
        return [*screened, *finalist_jobs(command, screened, finished_lines(screened, folder).values())]
    chosen = _chosen(command, name, command.rows if stage == FINAL else _swept(command))
    return final_jobs(command, task, chosen) if stage == FINAL else sweep_jobs(command, task, chosen)


def _write_stability(command: StudyCommand, name: str, folder: Path) -> None:
    rows = json.loads((folder / COMPARISON).read_text())["comparison"]
    found = stability(rows, _chosen(command, name, _swept(command)))
    (folder / STABILITY).write_text(json.dumps(found, indent=1) + "\n")
    for row, limits in found.items():
        print(f"{name}: {row:20} within {CLOSE} of its best: {limits}")


def _swept(command: StudyCommand) -> list[str]:
    return [row for row in command.rows if row in command.sweep_rows]


def _chosen(command: StudyCommand, name: str, rows: Sequence[str]) -> dict[str, Settings]:
    """Of this command's search; there may be lines of others in its file."""
    asked = screening_jobs(command, TASKS[name])
    seeds = range(FIRST_SEARCH_SEED, FIRST_SEARCH_SEED + command.search_seeds)
    jobs = [replace(job, seed=seed) for seed in seeds for job in asked]
    return choose([*finished_lines(jobs, command.out / name / SEARCH).values()], rows, command.search_seeds)


def _state(command: StudyCommand, name: str, stage: str) -> str:
    try:
        jobs = _jobs(command, name, stage)
    except ConfigError:
        return "waits for the search"
    done = finished_lines(jobs, command.out / name / stage)
    text = f"{len(done)}/{len(jobs)} runs"
    if done and len(done) < len(jobs):
        pace = sum(line["wall_seconds"] for line in done.values()) / sum(_work(job) for job in jobs if job.key in done)
        hours = pace * sum(_work(job) for job in jobs if job.key not in done) / 3600
        text += f", {hours:.1f} core-hours left, {hours / command.workers:.1f} h with {command.workers} workers"
    return text


def _work(job: Job) -> float:
    """What a run costs, in completions: a gradient sample takes about as long as a completion, or its evaluation."""
    settings: dict[str, Any] = job.settings
    passes = settings.get("utd", settings.get("epochs", 2.0))
    return float(job.total_rollouts * (2.0 + passes))


def _check(command: StudyCommand) -> None:
    for name in ("settings", "search_seeds", "seeds", "sweep_seeds", "eval_every", "workers"):
        if getattr(command, name) < 1:
            raise ConfigError(name, getattr(command, name), "a whole number of at least 1")
    if command.settings > FEWEST:
        raise ConfigError("settings", command.settings, f"at most {FEWEST}: rows whose passes are fixed have no more")
    if not command.scale > 0:
        raise ConfigError("scale", command.scale, "above 0")
    for name in command.tasks:
        if name not in TASKS:
            raise ConfigError("tasks", name, _GONE.get(name, f"names among {', '.join(TASKS)}"))
    for name in (*command.rows, *command.sweep_rows):
        if name not in ROWS:
            raise ConfigError("rows", name, f"names among {', '.join(ROWS)}")
