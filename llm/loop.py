"""The training loop: collect, update, record, evaluate, checkpoint, and stop without losing anything."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from r2vpo.interrupt import StopRequest, finish_iteration_on_interrupt
from r2vpo.llm.collection import Group, describe, to_iteration
from r2vpo.llm.held_out import accuracy
from r2vpo.llm.memory import advice_when_memory_runs_out
from r2vpo.llm.mismatch import engine_mismatch, mismatch_warning
from r2vpo.llm.results import log_completions, write_recent_tokens
from r2vpo.llm.snapshot import take_snapshot
from r2vpo.progress import LiveLine

if TYPE_CHECKING:
    from torch import Tensor

    from r2vpo.llm.trainer import R2VPOTrainer

_log = logging.getLogger(__name__)

UNINFORMATIVE_LIMIT = 10
"""Iterations in a row without one group of mixed rewards after which a run warns."""


def run_training(trainer: R2VPOTrainer, progress_bar: bool) -> None:
    """Iterate until the rollouts are used up, a callback stops it, or Ctrl-C does."""
    config, stop = trainer.config, StopRequest()
    last_checkpoint = time.monotonic()
    quiet = not progress_bar or not trainer.processes.is_main
    line = LiveLine(config.total_rollouts, "rollouts", done=trainer.rollouts, quiet=quiet)
    with finish_iteration_on_interrupt(stop), line, advice_when_memory_runs_out(config):
        while trainer.rollouts < config.total_rollouts and not _agreed(trainer, stop):
            metrics = _iterate(trainer)
            _report(trainer, metrics, line)
            stop.by_callback |= any(callback(trainer, metrics) is False for callback in trainer.callbacks)
            due = time.monotonic() - last_checkpoint >= config.checkpoint_seconds
            if due and trainer.run is not None:
                _checkpoint(trainer)
                last_checkpoint = time.monotonic()
        if trainer.run is not None:
            _checkpoint(trainer)
    if stop.interrupted:
        raise KeyboardInterrupt


def _iterate(trainer: R2VPOTrainer) -> dict[str, Any]:
    """One rollout and its update."""
    config = trainer.config
    started = time.perf_counter()
    groups, seconds = trainer.collector.collect()
    iteration = to_iteration(groups, config)
    if iteration is not None:
        _settle_log_probs(trainer, iteration)
    collected = time.perf_counter()
    summary = trainer.learner.update(iteration, trainer.learning_rate())
    seconds["train_seconds"] = time.perf_counter() - collected
    trainer.iterations += 1
    trainer.rollouts += config.iteration_size
    synced = time.perf_counter()
    trainer.engine.sync_weights(trainer.model, trainer.iterations)
    seconds["sync_seconds"] = time.perf_counter() - synced
    trainer.train_seconds += time.perf_counter() - started
    metrics = {**describe(groups), **summary, **seconds, "accuracy_greedy": _held_out(trainer)}
    _watch_rewards(trainer, groups)
    if trainer.run is not None:
        log_completions(trainer, groups)
        write_recent_tokens(trainer)
    return metrics


def _settle_log_probs(trainer: R2VPOTrainer, iteration: dict[str, Tensor]) -> None:
    """Compare engine and trainer once, and take the trainer's log-probs where the config says so."""
    if trainer.engine_mismatch is None:
        trainer.engine_mismatch = engine_mismatch(trainer.learner, iteration)
        if trainer.processes.is_main:
            print(f"engine mismatch E[(rho-1)^2] before the first step: {trainer.engine_mismatch:.2e}")
            warning = mismatch_warning(trainer.engine_mismatch, trainer.config.delta)
            if warning and trainer.config.behaviour_log_probs == "engine":
                _log.warning(warning)
    if trainer.config.behaviour_log_probs == "trainer":
        trainer.learner.rescore(iteration)


def _held_out(trainer: R2VPOTrainer) -> float | None:
    config = trainer.config
    due = config.eval_every and trainer.iterations % config.eval_every == 0
    if not due or not trainer.eval_problems:
        return None
    value = accuracy(trainer.collector, trainer.eval_problems)
    if value is not None:
        trainer.last_accuracy = value
    return value


def _watch_rewards(trainer: R2VPOTrainer, groups: list[Group]) -> None:
    if any(group.mixed for group in groups):
        trainer.uninformative_iterations = 0
        return
    trainer.uninformative_iterations += 1
    if trainer.uninformative_iterations == UNINFORMATIVE_LIMIT and trainer.processes.is_main:
        _log.warning(
            "all rewards within each group were equal for %d iterations: there is nothing to learn from. Look at "
            "completions.jsonl; easier or harder problems, another reward or more completions per prompt may help.",
            UNINFORMATIVE_LIMIT,
        )


def _report(trainer: R2VPOTrainer, metrics: dict[str, Any], line: LiveLine) -> None:
    lam = metrics["lam"] if trainer.learner.updater.objective.uses_dual else None
    line.update(
        trainer.rollouts,
        reward=metrics["reward"],
        accuracy=trainer.last_accuracy,
        ratio_var=metrics.get("ratio_variance"),
        **{"lambda": lam},
    )
    if trainer.run is not None:
        head = {"step": trainer.rollouts, "time": trainer.train_seconds, "learning_rate": trainer.learning_rate()}
        speed = trainer.rollouts / trainer.train_seconds
        trainer.run.append_metrics({**head, "samples_per_second": speed, **metrics})


def _checkpoint(trainer: R2VPOTrainer) -> None:
    assert trainer.run is not None
    trainer.run.save_checkpoint(take_snapshot(trainer))


def _agreed(trainer: R2VPOTrainer, stop: StopRequest) -> bool:
    """Whether to stop: one process asked to is enough for all."""
    return any(trainer.processes.gather([bool(stop)]))
