"""The training loop: collect, update, record, checkpoint, and stop without losing anything.

Below it, what comes before the first iteration, the choice between eager and compiled gradient steps, and what comes
after the last, the evaluation and the summary.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from r2vpo.control.callbacks.base import BaseCallback
from r2vpo.control.config import ControlConfig
from r2vpo.control.evaluation import EvaluationResult
from r2vpo.control.learner import Learner
from r2vpo.control.pictures import plot_runs
from r2vpo.control.run import GradientStep, TrainingRun
from r2vpo.dual import SMALLEST_SHARE
from r2vpo.errors import ConfigError, EnvironmentFailure
from r2vpo.processes import torch_threads
from r2vpo.runs.compilation import CompilationError, obstacle
from r2vpo.runs.directory import BEST, CURVE, METRICS, read_metrics
from r2vpo.runs.interrupt import StopRequest, finish_iteration_on_interrupt
from r2vpo.runs.progress import LiveLine
from r2vpo.runs.provenance import package_versions

EVALUATION_EPISODES = 10
"""Of each kind in an evaluation while training."""
RETURN_WINDOW = 20
"""The live return is the mean over this many last training episodes."""


def train(
    run: TrainingRun, callback: BaseCallback, progress_bar: bool, evaluate: Callable[..., EvaluationResult]
) -> None:
    """Iterate until the schedule of the run ends, a callback stops it, or Ctrl-C does; then finish it.

    Args:
        run: Its directory, where it has one, gets metrics and checkpoints.
        callback: Attached to the algorithm already.
        evaluate: Of the algorithm.
        progress_bar: Show the live line.

    Raises:
        KeyboardInterrupt: Ctrl-C; the iteration under way is finished and saved first.
    """
    config, stop, directory = run.config, StopRequest(), run.directory
    collector = run.collector
    callback.on_training_start({"self": callback.model, "total_timesteps": config.total_steps})
    last_checkpoint = time.monotonic()
    line = LiveLine(run.end, "steps", done=run.num_timesteps, quiet=not progress_bar)
    with torch_threads(config.torch_threads):
        run.gradient_step = prepare_gradient_step(run.learner, config, _announcer(progress_bar))
        run.train_seconds += run.gradient_step.seconds
        with finish_iteration_on_interrupt(stop), line:
            while run.num_timesteps < run.end and not stop:
                started = time.perf_counter()
                metrics = _iterate(run, collector, callback, stop)
                run.train_seconds += time.perf_counter() - started
                if config.eval_every and run.num_timesteps % config.eval_every < config.rollout_size:
                    metrics |= _scores_on_the_way(run, evaluate)
                _report(run, metrics, line)
                _end_iteration(run, callback, stop)
                if directory is not None and time.monotonic() - last_checkpoint >= config.checkpoint_seconds:
                    directory.save_checkpoint(run.snapshot())
                    last_checkpoint = time.monotonic()
            if directory is not None:
                directory.save_checkpoint(run.snapshot())
    if directory is not None and not stop.interrupted:
        finish_run(run, evaluate)
    callback.on_training_end()  # last, so that its failure costs nothing
    if stop.interrupted:
        raise KeyboardInterrupt


def _announcer(loud: bool) -> Callable[[str], None]:
    return (lambda text: print(text, file=sys.stderr, flush=True)) if loud else (lambda text: None)


def _iterate(run: TrainingRun, collector: Any, callback: BaseCallback, stop: StopRequest) -> dict[str, Any]:
    """One rollout and its update."""
    config = run.config
    begun_at = run.num_timesteps
    remaining = max(0.0, 1.0 - (begun_at - run.schedule_start) / config.total_steps)
    learning_rate = config.learning_rate * (remaining if config.lr_schedule == "linear" else 1.0)
    faded = 1.0 - min(1.0, remaining / config.delta_decay) if config.delta_decay else 0.0
    delta_share = 1.0 - (1.0 - SMALLEST_SHARE) * faded

    def on_step(rewards: np.ndarray, dones: np.ndarray) -> None:
        run.num_timesteps += config.num_envs
        callback.update_locals({"rewards": rewards, "dones": dones})
        if not callback.on_step():
            stop.by_callback = True

    generator_state = run.generator.get_state()
    try:
        callback.on_rollout_start()
        started = time.perf_counter()
        rollout, finished = collector.collect(config.rollout_steps, on_step)
    except Exception as failure:  # of an environment or a callback
        run.num_timesteps = begun_at
        run.generator.set_state(generator_state)
        if run.directory is None:
            raise
        run.directory.save_checkpoint(run.snapshot(with_environments=False))
        saved = f"the run up to step {begun_at:,} is saved; resuming it begins new episodes"
        if isinstance(failure, EnvironmentFailure):
            raise EnvironmentFailure(f"{failure} ({saved})") from failure
        failure.add_note(saved)
        raise
    for episode in finished:
        run.episodes.add(begun_at + episode.rollout_step, episode.episode_return, episode.length)
    callback.on_rollout_end()
    collected = time.perf_counter()
    summary = run.learner.update(rollout, learning_rate, delta_share)
    seconds = {"collect_seconds": collected - started, "update_seconds": time.perf_counter() - collected}
    return {"learning_rate": learning_rate, "episodes": len(run.episodes.returns), **seconds, **summary}


def _report(run: TrainingRun, metrics: dict[str, Any], line: LiveLine) -> None:
    recent, lengths = (values[-RETURN_WINDOW:] for values in (run.episodes.returns, run.episodes.lengths))
    mean_return = float(np.mean(recent)) if recent else None
    lam = metrics["lam"] if run.learner.updater.objective.uses_dual else None
    line.update(run.num_timesteps, **{"return": mean_return}, ratio_var=metrics["ratio_variance"], **{"lambda": lam})
    speed = run.num_timesteps / run.train_seconds
    head = {"step": run.num_timesteps, "time": run.train_seconds, "return": mean_return}
    length = {"episode_length": float(np.mean(lengths))} if lengths else {}
    run.metrics = {**head, **length, "steps_per_second": speed, **metrics}


def _end_iteration(run: TrainingRun, callback: BaseCallback, stop: StopRequest) -> None:
    """Ask the callback, then write the metrics down with what it has recorded."""
    failed = True
    try:
        stop.by_callback |= not callback.on_update_end()
        failed = False
    finally:
        run.metrics = run.logger.iteration(run.metrics)
        if failed and run.directory is not None:
            run.directory.save_checkpoint(run.snapshot())


def _scores_on_the_way(run: TrainingRun, evaluate: Callable[..., EvaluationResult]) -> dict[str, float]:
    """Of an evaluation while training, the best model kept; nothing where it fails, and training goes on."""
    try:
        found = scores(evaluate, EVALUATION_EPISODES)
    except Exception as error:  # whatever an environment raises in it
        reason = f"{type(error).__name__}: {error}"
        warnings.warn(f"no evaluation at step {run.num_timesteps:,}: {reason}; training goes on", stacklevel=3)
        return {}
    if run.directory is not None:
        best = best_evaluation(run.directory.path)
        if best is None or found["eval_return_mean"] > best["eval_return_mean"]:
            run.directory.save_checkpoint(run.snapshot(), BEST)
    return found


def scores(evaluate: Callable[..., EvaluationResult], episodes: int) -> dict[str, float]:
    """Mean returns by the mean action and by sampled ones, spread and lengths of the former, and what had to be cut."""
    result, stochastic = (evaluate(episodes, deterministic=deterministic) for deterministic in (True, False))
    cut = result.cut + stochastic.cut
    return {
        "eval_return_mean": result.mean,
        "eval_return_std": result.std,
        "eval_return_mean_stochastic": stochastic.mean,
        "eval_length_mean": float(np.mean(result.lengths)),
        **({"eval_episodes_cut": cut} if cut else {}),
    }


def best_evaluation(run_dir: Path) -> dict[str, Any] | None:
    """The line of metrics.jsonl with the highest mean return of an evaluation while training; None without any."""
    lines = read_metrics(run_dir) if (run_dir / METRICS).exists() else []
    evaluated = [line for line in lines if "eval_return_mean" in line]
    return max(evaluated, key=lambda line: float(line["eval_return_mean"]), default=None)


PAYS_AFTER = 15_000
"""Gradient steps. Compiling takes 12 to 25 s on two cores, once, and saves 0.7 ms or more a step of every run."""


def prepare_gradient_step(
    learner: Learner, config: ControlConfig, announce: Callable[[str], None] = lambda text: None
) -> GradientStep:
    """Make the learner take the kind of steps that the config asks for.

    Args:
        learner: Compiles for its own minibatches.
        config: ``gradient_step`` and the length of the run count.
        announce: Told before a compilation that takes long.

    Raises:
        ConfigError: ``compiled`` was asked for and cannot be had.
    """
    updater = learner.updater
    updater.use_eager_step()
    if config.gradient_step == "eager":
        return GradientStep("eager", "it was asked for")
    steps = total_gradient_steps(config)
    if config.gradient_step == "auto" and steps < PAYS_AFTER:
        return GradientStep("eager", f"{steps:,} steps do not pay for compiling; {PAYS_AFTER:,} do")
    problem = obstacle()
    if problem is None:
        started = time.perf_counter()
        function = updater.trace(learner.example_minibatch())
        new = not function.is_cached
        if new:
            announce("compiling the gradient step: 10 to 30 s, once for these settings on this machine")
        try:
            updater.use_compiled_step(function)
            seconds = time.perf_counter() - started
            if new:
                announce(f"compiled in {seconds:.0f} s")
            reason = "it was asked for" if config.gradient_step == "compiled" else f"{steps:,} steps pay for it"
            return GradientStep("compiled", reason, seconds)
        except CompilationError as error:
            problem = str(error)
    if config.gradient_step == "compiled":
        raise ConfigError("gradient_step", "compiled", f"'eager' or 'auto' here: {problem}")
    announce(f"the gradient step is not compiled: {problem}")
    return GradientStep("eager", problem)


def total_gradient_steps(config: ControlConfig) -> int:
    """Of the whole run, with a buffer that is full from the start."""
    return -(-config.total_steps // config.rollout_size) * config.gradient_steps


def finish_run(run: TrainingRun, evaluate: Callable[..., EvaluationResult]) -> None:
    """Evaluate with ``evaluate(episodes, deterministic)``; write summary.json and the curve into the run directory.

    What cannot be had is named in the summary under ``missing``, with the reason.
    """
    assert run.directory is not None
    config = run.config
    summary: dict[str, Any] = {
        "env": config.env,
        "algo": config.algo,
        "objective": config.objective,
        "seed": config.seed,
        "total_steps": run.num_timesteps,
        "steps_per_second": run.num_timesteps / run.train_seconds,
        "train_seconds": run.train_seconds,
        "gradient_step": None if run.gradient_step is None else asdict(run.gradient_step),
        "engine": run.engine,
        "versions": package_versions(),
    }
    directory = run.directory
    if config.eval_every and (best := best_evaluation(directory.path)) is not None:
        summary["best"] = {"step": best["step"], "eval_return_mean": best["eval_return_mean"]}
    missing = {"evaluation": "it was stopped before its end"} if config.eval_episodes else {}

    def write() -> None:
        directory.write_summary({**summary, "missing": missing} if missing else summary)

    def measure() -> None:
        found = scores(evaluate, config.eval_episodes)
        summary.update(found, eval_episodes=config.eval_episodes)
        run.logger.point({"step": run.num_timesteps, **found})

    write()  # what is known stands from here on, however the rest ends
    parts: dict[str, Callable[[], object]] = {"curve": lambda: plot_runs([directory.path], directory.path / CURVE)}
    for name, part in {**parts, **({"evaluation": measure} if config.eval_episodes else {})}.items():
        try:
            part()
            missing.pop(name, None)
        except Exception as error:  # whatever an environment raises: the run is trained, and stays so
            missing[name] = f"{type(error).__name__}: {error}"
            warnings.warn(
                f"no {name}: {missing[name]}; the trained model is in {directory.checkpoint_path}", stacklevel=3
            )
    write()
