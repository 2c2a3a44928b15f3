"""The training loop: collect, update, record, checkpoint, and stop without losing anything."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from r2vpo.compilation import CompilationError, obstacle
from r2vpo.control.callbacks import BaseCallback
from r2vpo.control.config import ControlConfig
from r2vpo.control.learner import Learner
from r2vpo.control.run import take_snapshot
from r2vpo.dual import SMALLEST_SHARE
from r2vpo.errors import ConfigError, EnvironmentFailure
from r2vpo.plotting import plot_runs
from r2vpo.processes import torch_threads
from r2vpo.runs.directory import CURVE
from r2vpo.runs.interrupt import StopRequest, finish_iteration_on_interrupt
from r2vpo.runs.progress import LiveLine
from r2vpo.runs.provenance import package_versions

if TYPE_CHECKING:
    from r2vpo.control.algorithm import R2VPO

RETURN_WINDOW = 20
"""The live return is the mean over this many last training episodes."""


def train(model: R2VPO, callback: BaseCallback, progress_bar: bool) -> None:
    """Iterate until the schedule of the model's config ends, a callback stops it, or Ctrl-C does."""
    config, stop = model.config, StopRequest()
    end = model.schedule_start + config.total_steps
    collector = model.collector
    callback.init_callback(model)
    callback.on_training_start({"self": model, "total_timesteps": config.total_steps})
    last_checkpoint = time.monotonic()
    with torch_threads(config.torch_threads):
        model.gradient_step = prepare_gradient_step(model.learner, config, _announcer(progress_bar))
    model.train_seconds += model.gradient_step.seconds
    line = LiveLine(end, "steps", done=model.num_timesteps, quiet=not progress_bar)
    with torch_threads(config.torch_threads), finish_iteration_on_interrupt(stop), line:
        while model.num_timesteps < end and not stop:
            started = time.perf_counter()
            metrics = _iterate(model, collector, callback, stop)
            model.train_seconds += time.perf_counter() - started
            _report(model, metrics, line)
            if model.run is not None and time.monotonic() - last_checkpoint >= config.checkpoint_seconds:
                model.run.save_checkpoint(take_snapshot(model))
                last_checkpoint = time.monotonic()
        if model.run is not None:
            model.run.save_checkpoint(take_snapshot(model))
    callback.on_training_end()
    if stop.interrupted:
        raise KeyboardInterrupt
    if model.run is not None and model.num_timesteps >= end:
        finish_run(model)


def _announcer(loud: bool) -> Callable[[str], None]:
    return (lambda text: print(text, file=sys.stderr, flush=True)) if loud else (lambda text: None)


def _iterate(model: R2VPO, collector: Any, callback: BaseCallback, stop: StopRequest) -> dict[str, Any]:
    """One rollout and its update."""
    config = model.config
    begun_at = model.num_timesteps
    remaining = max(0.0, 1.0 - (begun_at - model.schedule_start) / config.total_steps)
    learning_rate = config.learning_rate * (remaining if config.lr_schedule == "linear" else 1.0)
    faded = 1.0 - min(1.0, remaining / config.delta_decay) if config.delta_decay else 0.0
    delta_share = 1.0 - (1.0 - SMALLEST_SHARE) * faded

    def on_step() -> None:
        model.num_timesteps += config.num_envs
        if not callback.on_step():
            stop.by_callback = True

    callback.on_rollout_start()
    started = time.perf_counter()
    generator_state = model.generator.get_state()
    try:
        rollout, finished = collector.collect(config.rollout_steps, on_step)
    except EnvironmentFailure as failure:
        model.num_timesteps = begun_at
        model.generator.set_state(generator_state)
        if model.run is None:
            raise
        model.run.save_checkpoint(take_snapshot(model, with_environments=False))
        saved = f"the run up to step {begun_at:,} is saved; resuming it begins new episodes"
        raise EnvironmentFailure(f"{failure} ({saved})") from failure
    for episode in finished:
        model.episodes.add(begun_at + episode.rollout_step, episode.episode_return)
    callback.on_rollout_end()
    collected = time.perf_counter()
    summary = model.learner.update(rollout, learning_rate, delta_share)
    seconds = {"collect_seconds": collected - started, "update_seconds": time.perf_counter() - collected}
    return {"learning_rate": learning_rate, "episodes": len(model.episodes.returns), **seconds, **summary}


def _report(model: R2VPO, metrics: dict[str, Any], line: LiveLine) -> None:
    recent = model.episodes.returns[-RETURN_WINDOW:]
    mean_return = float(np.mean(recent)) if recent else None
    lam = metrics["lam"] if model.learner.updater.objective.uses_dual else None
    line.update(model.num_timesteps, **{"return": mean_return}, ratio_var=metrics["ratio_variance"], **{"lambda": lam})
    if model.run is not None:
        speed = model.num_timesteps / model.train_seconds
        head = {"step": model.num_timesteps, "time": model.train_seconds, "return": mean_return}
        model.run.append_metrics({**head, "steps_per_second": speed, **metrics})


PAYS_AFTER = 15_000
"""Gradient steps. Compiling takes 12 to 25 s on two cores, once, and saves 0.7 ms or more a step of every run."""


@dataclass(frozen=True)
class GradientStep:
    """How gradient steps are taken, why, and what it took to prepare them."""

    kind: str
    """``compiled`` or ``eager``."""
    reason: str
    seconds: float = 0.0


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


def finish_run(model: R2VPO) -> dict[str, Any]:
    """Evaluate, and write summary.json and the curve into the model's run directory; returns the summary."""
    assert model.run is not None
    config = model.config
    summary: dict[str, Any] = {
        "env": config.env,
        "algo": config.algo,
        "objective": config.objective,
        "seed": config.seed,
        "total_steps": model.num_timesteps,
        "steps_per_second": model.num_timesteps / model.train_seconds,
        "train_seconds": model.train_seconds,
        "gradient_step": None if model.gradient_step is None else asdict(model.gradient_step),
        "engine": model.engine,
        "versions": package_versions(),
    }
    if config.eval_episodes:
        result = model.evaluate(config.eval_episodes)
        stochastic = model.evaluate(config.eval_episodes, deterministic=False)
        summary |= {
            "eval_return_mean": result.mean,
            "eval_return_std": result.std,
            "eval_episodes": config.eval_episodes,
            "eval_return_mean_stochastic": stochastic.mean,
            "eval_length_mean": float(np.mean(result.lengths)),
        }
    model.run.write_summary(summary)
    plot_runs([model.run.path], model.run.path / CURVE)
    return summary
