"""The search: trials asked for one by one, run in processes, and told; a study of Optuna's for each method."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any

import optuna
from optuna.trial import TrialState

from r2vpo.control.config import ControlConfig
from r2vpo.control.experiments.commands import parse_settings
from r2vpo.control.experiments.tuning.options import TuneCommand
from r2vpo.control.experiments.tuning.results import print_table, write_results
from r2vpo.control.experiments.tuning.space import Dimension, read_space
from r2vpo.control.experiments.tuning.trial import PRUNERS, Trial, open_storage, run
from r2vpo.control.presets import VARIANTS
from r2vpo.envs.making import make_env, require_box_spaces
from r2vpo.errors import ConfigError
from r2vpo.runs.checkpoint import write_text_atomically
from r2vpo.runs.directory import take_lock
from r2vpo.runs.progress import LiveLine
from r2vpo.validation import check_values, upgraded

JOURNAL, SPACE = "journal.log", "space.yaml"
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def search(command: TuneCommand) -> dict[str, Any]:
    """Run what is missing of the trials; write and print the results.

    Raises:
        ConfigError: Anything about the command that cannot work.
        RunDirectoryError: ``out`` cannot be written, or is in use.
        R2VPOError: No trial of a method came to a score.
        KeyboardInterrupt: Ctrl-C; trials that have ended are kept.
    """
    fixed, space, text = _check(command)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with take_lock(command.out, "out"):
        write_text_atomically(command.out / SPACE, text)
        where = command.storage or str(command.out / JOURNAL)
        studies = {algo: _study(command, algo, where) for algo in command.algos}
        # Methods take turns, so that a search that is stopped has spent as much on each.
        _run_trials(command, studies, where, fixed, space)
        results = write_results(command, studies, fixed, space)
    print_table(results, command.out)
    return results


def _check(command: TuneCommand) -> tuple[dict[str, Any], list[Dimension], str]:
    for field in ("trials", "total_steps", "seeds", "workers", "episodes"):
        if getattr(command, field) < 1:
            raise ConfigError(field, getattr(command, field), "a whole number of at least 1")
    if not command.algos or len(set(command.algos)) < len(command.algos):
        raise ConfigError("algos", command.algos, "at least one, and none of them twice")
    for algo in command.algos:
        if algo not in VARIANTS:
            raise ConfigError("algos", algo, f"one of {', '.join(VARIANTS)}")
    space, text = read_space(command.space)
    fixed = parse_settings(command.set)
    for dimension in space:
        if dimension.name in fixed:
            raise ConfigError(dimension.name, fixed[dimension.name], "in the space or in --set, not in both")
    check_values(ControlConfig, upgraded(fixed))  # whether they fit what is chosen shows in the trials
    env = make_env(command.env)
    require_box_spaces(env)
    env.close()
    return fixed, space, text


def settings_of(command: TuneCommand, algo: str, fixed: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    """Settings of a trial's training: the method's, below those that are fixed, below those that are chosen."""
    run_settings = {"env": command.env, "total_steps": command.total_steps, "eval_episodes": 0, "env_threads": 1}
    return {**run_settings, **VARIANTS[algo], **fixed, **chosen}


def _study(command: TuneCommand, algo: str, where: str) -> optuna.Study:
    """The study of a method, with what a killed search left under way to be tried again."""
    name = f"{command.env}/{algo}/{command.total_steps}x{command.seeds}/{command.pruner}"
    options: dict[str, Any] = {"study_name": name, "storage": open_storage(where), "direction": "maximize"}
    study = optuna.create_study(**options, load_if_exists=True, pruner=PRUNERS[command.pruner]())
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    # Not the same seed again where a search goes on, or it would choose what it has chosen.
    study.sampler = _sampler(command, len(study.get_trials(deepcopy=False)))
    return study


def _sampler(command: TuneCommand, begun: int) -> optuna.samplers.BaseSampler:
    seed = command.first_seed + begun
    if command.sampler == "random":
        return optuna.samplers.RandomSampler(seed)
    if command.sampler == "qmc":
        return optuna.samplers.QMCSampler(seed=command.first_seed, scramble=True)  # its place is in the storage
    return optuna.samplers.TPESampler(seed=seed, constant_liar=command.workers > 1)


def _run_trials(
    command: TuneCommand,
    studies: dict[str, optuna.Study],
    where: str,
    fixed: dict[str, Any],
    space: list[Dimension],
) -> None:
    ended = {algo: len(study.get_trials(deepcopy=False, states=_ENDED)) for algo, study in studies.items()}
    queue = [algo for i in range(command.trials) for algo in studies if i >= ended[algo]]
    total = command.trials * len(studies)
    seeds = tuple(range(command.first_seed, command.first_seed + command.seeds))
    context = multiprocessing.get_context("spawn")
    line = LiveLine(total, "trials", done=total - len(queue), quiet=command.quiet)
    under_way: dict[Future[tuple[float | None, int, str]], tuple[str, optuna.trial.Trial]] = {}
    with ProcessPoolExecutor(command.workers, mp_context=context) as pool, line:
        try:
            while queue or under_way:
                while queue and len(under_way) < command.workers:
                    algo = queue.pop(0)
                    study = studies[algo]
                    trial = study.ask()
                    settings = settings_of(command, algo, fixed, {d.name: d.suggest(trial) for d in space})
                    task = Trial(
                        where, study.study_name, trial.number, trial._trial_id, settings, seeds, command.episodes
                    )
                    under_way[pool.submit(run, task)] = algo, trial
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    algo, trial = under_way.pop(future)
                    _tell(studies[algo], trial, future.result())
                    line.update(total - len(queue) - len(under_way), **_best(studies))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list((pool._processes or {}).values()):
                process.terminate()
            raise


def _tell(study: optuna.Study, trial: optuna.trial.Trial, outcome: tuple[float | None, int, str]) -> None:
    score, steps, reason = outcome
    trial.set_user_attr("steps", steps)
    if score is None:
        trial.set_user_attr("ended", reason)
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, score)


def _best(studies: dict[str, optuna.Study]) -> dict[str, float | str | None]:
    return {f"best {algo}": best_value(study) for algo, study in studies.items()}


def best_value(study: optuna.Study) -> float | None:
    """The highest score so far; None without any."""
    scores = [t.value for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if t.value is not None]
    return max(scores, default=None)
