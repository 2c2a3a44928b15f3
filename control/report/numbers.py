"""Every number of a report, as one document of plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r2vpo.control.report.lines import TRACES, Study, as_curves
from r2vpo.runs import stats as aggregate
from r2vpo.runs.stats import RESAMPLES, summarise

AGGREGATES: dict[str, Callable[..., NDArray[np.float64]]] = {
    "iqm": aggregate.aggregate_iqm,
    "median": aggregate.aggregate_median,
    "mean": aggregate.aggregate_mean,
    "optimality_gap": aggregate.optimality_gap,
}
PROFILE_POINTS = 101
LAST_PART = 0.1
"""Part of training whose mean return is a run's final training return."""

Row = dict[str, Any]


def numbers_of(study: Study, reference: str, baseline: str, resamples: int) -> dict[str, Callable[[], Any]]:
    """The parts of the document by name, each to be made by a call, in this order."""
    normalisation = normalisation_rows(study)
    scores = {algo: normalised_scores(study, normalisation, algo) for algo in study.algorithms}
    return {
        "tasks": lambda: study.tasks,
        "algorithms": lambda: study.algorithms,
        "origin": lambda: origin_of(study),
        "summary": lambda: summary_rows(study, reference, resamples),
        "normalisation": lambda: normalisation,
        "aggregates": lambda: aggregate_rows(scores, resamples),
        "profiles": lambda: profile_rows(scores, resamples),
        "improvement": lambda: improvement_rows(study, baseline, resamples),
        "curves": lambda: curve_rows(study, "returns", resamples),
        "traces": lambda: {name: curve_rows(study, name, resamples) for name in TRACES},
        "not_recorded": lambda: not_recorded(study),
        "runs": lambda: run_rows(study),
    }


def origin_of(study: Study) -> dict[str, Any]:
    """Where the lines come from: runs, dates, commands, settings, versions, machines and commits."""
    runs = study.runs
    return {
        "runs": len(runs),
        "newest": study.newest,
        "newest_is_file_time": study.newest_is_file_time,
        "commands": list(dict.fromkeys(str(run["command"]) for run in runs if run.get("command"))),
        "settings": {algo: _settings([r for r in runs if r["algo"] == algo]) for algo in study.algorithms},
        "versions": _counted(runs, "versions"),
        "machines": _counted(runs, "machine"),
        "commits": _counted(runs, "commit"),
    }


def summary_rows(study: Study, reference: str, resamples: int) -> list[Row]:
    """A row for each task and algorithm.

    Args:
        study: The runs.
        reference: Algorithm whose final training return is to be reached.
        resamples: Of the interval of the steps.
    """
    rows = []
    for env in study.tasks:
        level = final_training_return(study.curves(env, reference)) if study.of(env, reference) else None
        for algo in study.algorithms:
            runs = study.of(env, algo)
            if runs:
                rows.append(_summary_row(study, runs, level, resamples))
    return rows


def final_training_return(curves: NDArray[np.float64]) -> float | None:
    """Interquartile mean over runs of the mean return in the last tenth of training.

    Args:
        curves: ``[runs, windows]``.

    Returns:
        None where a run has no episode that ended there.
    """
    last = max(1, round(LAST_PART * curves.shape[1]))
    return plain(aggregate.interquartile_mean(curves[:, -last:].mean(axis=1)))


def normalisation_rows(study: Study) -> list[Row]:
    """The two scores of each task that are mapped to 0 and 1, or why the task is left out of the aggregates.

    0 is the mean over all runs of the first training return on record, of policies that have hardly learned; 1 is
    the mean final return of the algorithm where that is highest.
    """
    rows = []
    for env in study.tasks:
        firsts = [_first_known(run["returns"]) for run in study.runs if run["env"] == env]
        starts = [first for first in firsts if first is not None]
        present = [algo for algo in study.algorithms if study.of(env, algo)]
        low = float(np.mean(starts)) if len(starts) == len(firsts) else None
        high = max(float(study.final_returns(env, algo).mean()) for algo in present)
        if len(present) < len(study.algorithms):
            missing = [algo for algo in study.algorithms if algo not in present]
            reason = f"no run of {', '.join(missing)}"
        elif low is None:
            reason = "runs without a finished training episode"
        elif high <= low:
            reason = "no algorithm ends above the returns at the start of training"
        else:
            reason = None
        rows.append({"env": env, "low": low, "high": high, "left_out": reason})
    return rows


def normalised_scores(study: Study, rows: Sequence[Row], algo: str) -> list[NDArray[np.float64]]:
    """``[runs]`` of each task that is not left out: (final return - low) / (high - low)."""
    used = [row for row in rows if row["left_out"] is None]
    return [(study.final_returns(row["env"], algo) - row["low"]) / (row["high"] - row["low"]) for row in used]


def aggregate_rows(scores: dict[str, list[NDArray[np.float64]]], resamples: int) -> list[Row]:
    """The aggregates of each algorithm, with intervals; none where no task has normalised scores."""
    return [
        {"algo": algo, **{name: _estimate(statistic, [tasks], resamples) for name, statistic in AGGREGATES.items()}}
        for algo, tasks in scores.items()
        if tasks
    ]


def profile_rows(scores: dict[str, list[NDArray[np.float64]]], resamples: int) -> Row:
    """Performance profiles at equally spaced thresholds between the lowest and the highest score, 0 and 1 included."""
    pooled = [run for tasks in scores.values() for task in tasks for run in task]
    if not pooled:
        return {"taus": [], "profiles": []}
    taus = np.linspace(min(0.0, *pooled), max(1.0, *pooled), PROFILE_POINTS)
    profiles = []
    for algo, tasks in scores.items():
        low, high = aggregate.stratified_interval(
            lambda drawn: aggregate.performance_profile(drawn, taus), [tasks], resamples
        )
        fractions = aggregate.performance_profile(tasks, taus)
        profiles.append({"algo": algo, "fraction": plain(fractions), "low": plain(low), "high": plain(high)})
    return {"taus": plain(taus), "profiles": profiles}


def improvement_rows(study: Study, baseline: str, resamples: int) -> list[Row]:
    """P(X > baseline) of the final return of every other algorithm, on each task and over those that both have.

    The tasks are in the order of the study, None for those that one of the two has no run on.
    """
    rows = []
    for algo in study.algorithms:
        envs = [env for env in study.tasks if study.of(env, algo) and study.of(env, baseline)]
        if algo != baseline and envs:
            arms = [[study.final_returns(env, name) for env in envs] for name in (algo, baseline)]
            of_task = {
                env: _estimate(aggregate.probability_of_improvement, [[arm[i]] for arm in arms], resamples)
                for i, env in enumerate(envs)
            }
            tasks = [of_task.get(env) for env in study.tasks]
            overall = _estimate(aggregate.probability_of_improvement, arms, resamples)
            rows.append({"algo": algo, "overall": overall, "tasks": tasks})
    return rows


def curve_rows(study: Study, name: str, resamples: int) -> list[Row]:
    """Interquartile mean and interval over seeds of ``returns`` or a trace, of every task and algorithm that has it.

    Each row has the steps, and the seconds of the median run that they stand for at constant speed.
    """
    rows = []
    for env in study.tasks:
        for algo in study.algorithms:
            runs = [run for run in study.of(env, algo) if _recorded(run, name)]
            if runs:
                rows.append(_curve_row(study, runs, name, resamples))
    return rows


def not_recorded(study: Study) -> dict[str, list[str]]:
    """For each trace, the algorithms without one run that has it."""
    return {
        name: [
            algo
            for algo in study.algorithms
            if not any(_recorded(run, name) for env in study.tasks for run in study.of(env, algo))
        ]
        for name in TRACES
    }


def run_rows(study: Study) -> list[Row]:
    """Every run in short."""
    fields = ("env", "algo", "seed", "eval_return_mean", "wall_seconds", "steps_per_second")
    return [{**{f: run[f] for f in fields}, "commit": str(run.get("commit", "unknown"))} for run in study.runs]


def plain(value: Any) -> Any:
    """Arrays and NumPy numbers as lists and floats; None for whatever is not finite."""
    array = np.asarray(value, dtype=np.float64)
    if array.ndim:
        return [plain(part) for part in array]
    return float(array) if np.isfinite(array) else None


def _summary_row(study: Study, runs: Sequence[Row], level: float | None, resamples: int) -> Row:
    env, algo = runs[0]["env"], runs[0]["algo"]
    curves = study.curves(env, algo)
    rates = [run["success_rate"] for run in runs if run.get("success_rate") is not None]
    whole = [float(curve[~np.isnan(curve)].mean()) if not np.isnan(curve).all() else None for curve in curves]
    return {
        "env": env,
        "algo": algo,
        "seeds": [run["seed"] for run in runs],
        "total_steps": runs[0]["total_steps"],
        "final": summarise([run["eval_return_mean"] for run in runs]),
        "while_training": None if None in whole else summarise([value for value in whole if value is not None]),
        "success_rate": float(np.mean(rates)) if len(rates) == len(runs) else None,
        "steps_to_reference": None if level is None else _steps_to(level, runs[0]["steps"], curves, resamples),
        "wall_seconds": float(np.median([run["wall_seconds"] for run in runs])),
        "steps_per_second": float(np.median([run["steps_per_second"] for run in runs])),
    }


def _steps_to(level: float, steps: Sequence[float], curves: NDArray[np.float64], resamples: int) -> Row:
    value = aggregate.steps_to_reach(steps, aggregate.interquartile_mean(curves.T), level)
    drawn = aggregate.steps_to_reach(steps, aggregate.resample_curves(curves, resamples), level)
    # No interpolation: between a step and "never" there is nothing.
    interval = aggregate.percentile_interval(drawn, "inverted_cdf")
    return {"level": level, "value": plain(value), "interval": [plain(end) for end in interval]}


def _curve_row(study: Study, runs: Sequence[Row], name: str, resamples: int) -> Row:
    env, algo = runs[0]["env"], runs[0]["algo"]
    values = as_curves([run[name] for run in runs])
    low, high = aggregate.percentile_interval(aggregate.resample_curves(values, resamples))
    steps = np.array(runs[0]["steps"], dtype=np.float64)
    seconds = float(np.median([run["wall_seconds"] for run in study.of(env, algo)]))
    return {
        "env": env,
        "algo": algo,
        "runs": len(runs),
        "steps": plain(steps),
        "seconds": plain(steps / runs[0]["total_steps"] * seconds),
        "iqm": plain(aggregate.interquartile_mean(values.T)),
        "low": plain(low),
        "high": plain(high),
    }


def _estimate(statistic: Callable[..., NDArray[np.float64]], arms: Sequence[Any], resamples: int) -> Row:
    low, high = aggregate.stratified_interval(statistic, arms, resamples)
    return {"value": plain(statistic(*arms)), "interval": [plain(low), plain(high)]}


def _first_known(points: Sequence[float | None]) -> float | None:
    return next((point for point in points if point is not None), None)


def _recorded(run: Row, name: str) -> bool:
    return any(point is not None for point in run.get(name) or ())


def _counted(runs: Sequence[Row], field: str) -> list[Row]:
    """The distinct values of a field in words, with the number of runs of each."""
    counts = Counter(_in_words(run.get(field, "unknown")) for run in runs)
    return [{"value": value, "runs": count} for value, count in counts.items()]


def _in_words(value: Any) -> str:
    return ", ".join(f"{name} {part}" for name, part in value.items()) if isinstance(value, dict) else str(value)


def _settings(runs: Sequence[Row]) -> Row:
    """What the configs of an algorithm's runs have in common; a list of the values where they differ."""
    configs = [run["config"] for run in runs if isinstance(run.get("config"), dict)]
    names = dict.fromkeys(name for config in configs for name in config if name not in ("env", "seed"))
    settings: Row = {}
    for name in names:
        values: list[Any] = []
        for config in configs:
            if config.get(name) not in values:
                values.append(config.get(name))
        settings[name] = values[0] if len(values) == 1 else {"differs": values}
    return settings


INTERVALS_WITHIN_A_TASK = RESAMPLES
"""Resamples of the intervals of :func:`r2vpo.runs.stats.summarise`."""
