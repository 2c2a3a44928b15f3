"""The training loop: collect, update, record, evaluate, checkpoint, and stop without losing anything."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from r2vpo.errors import NoVerdicts, OutOfMemory, RolloutError, TrainingDiverged
from r2vpo.llm.collection import Group, describe, to_iteration
from r2vpo.llm.config import LLMConfig
from r2vpo.llm.evaluation.held_out import (
    EVAL_TEMPERATURE,
    EVAL_TOP_P,
    judged_accuracy,
    point_of_the_curve,
    point_on_the_way,
)
from r2vpo.llm.experience import unpack
from r2vpo.llm.learner import TokenLearner
from r2vpo.llm.models.loading import save_pretrained
from r2vpo.llm.run import MODEL, Run, log_completions, take_snapshot, write_recent_tokens
from r2vpo.runs.directory import CURVE
from r2vpo.runs.interrupt import StopRequest, finish_iteration_on_interrupt
from r2vpo.runs.progress import LiveLine
from r2vpo.runs.provenance import package_versions

UNINFORMATIVE_LIMIT = 10
"""Iterations in a row without one group of mixed rewards after which a run warns."""
MISMATCH_SAMPLES = 256
"""Completions whose log-probs of engine and trainer are compared, at most."""

_log = logging.getLogger(__name__)


def run_training(run: Run, callbacks: Sequence[Callable[[dict[str, Any]], bool | None]], progress_bar: bool) -> None:
    """Iterate until the rollouts are used up, a callback stops it, or Ctrl-C does.

    Args:
        run: New or restored; it is changed in place.
        callbacks: Called with the metrics of each iteration; False ends the training.
        progress_bar: Show a live line, in the main process.

    Raises:
        NoVerdicts: No completion of several iterations in a row had a reward, or none of the whole run.
        TrainingDiverged: An update left weights that are not finite.
    """
    config, stop = run.config, StopRequest()
    if run.first_accuracy is None and not run.iterations and run.eval_problems and config.eval_every:
        first = point_of_the_curve(run)
        run.first_accuracy = run.last_accuracy = first["accuracy_greedy"]
        run.first_pass_at_1 = first.get("pass_at_1")
    last_checkpoint = time.monotonic()
    quiet = not progress_bar or not run.processes.is_main
    line = LiveLine(config.total_rollouts, "rollouts", done=run.rollouts, quiet=quiet)
    with run.logged(), finish_iteration_on_interrupt(stop), line, advice_when_memory_runs_out(config):
        while run.rollouts < config.total_rollouts and not _agreed(run, stop):
            metrics = _iterate(run)
            _report(run, metrics, line)
            stop.by_callback |= any(callback(metrics) is False for callback in callbacks)
            _end_iteration(run)
            if time.monotonic() - last_checkpoint >= config.checkpoint_seconds:
                _checkpoint(run)
                last_checkpoint = time.monotonic()
        _checkpoint(run)
    if stop.interrupted:
        raise KeyboardInterrupt
    run.collector.watch.end_run()


def _iterate(run: Run) -> dict[str, Any]:
    """One rollout and its update."""
    config = run.config
    started = time.perf_counter()
    groups, seconds = _collect(run)
    iteration = to_iteration(groups, config)
    if iteration is not None:
        _settle_log_probs(run, iteration)
    collected = time.perf_counter()
    summary = run.learner.update(iteration, run.learning_rate())
    _check_weights(run)
    seconds["train_seconds"] = time.perf_counter() - collected
    run.iterations += 1
    run.rollouts += run.collector.size
    synced = time.perf_counter()
    run.engine.sync_weights(run.model, run.iterations)
    seconds["sync_seconds"] = time.perf_counter() - synced
    run.train_seconds += time.perf_counter() - started
    metrics = {**describe(groups), **summary, **seconds, **_held_out(run)}
    _watch_rewards(run, groups)
    if run.directory is not None:
        log_completions(run, groups)
        write_recent_tokens(run)
    return metrics


def _check_weights(run: Run) -> None:
    """Raise TrainingDiverged where an update of finite gradients left weights that are not, as in half precision."""
    trained = {name: weight for name, weight in run.model.named_parameters() if weight.requires_grad}
    finite = torch.stack([weight.isfinite().all() for weight in trained.values()]).tolist()
    broken = [name for name, whole in zip(trained, finite, strict=True) if not whole]
    if broken:
        kind = str(trained[broken[0]].dtype).removeprefix("torch.")
        raise TrainingDiverged(
            f"{len(broken)} of {len(trained)} weights are not finite after update {run.iterations + 1}, such as "
            f"{broken[0]} ({kind}); the last checkpoint is from before. Lower learning_rate, or train in float32"
        )


def _collect(run: Run) -> tuple[list[Group], dict[str, float]]:
    """An iteration's completions; where rewards or engine fail, the run is saved as it was before the iteration."""
    collector = run.collector
    collector.state.global_step = run.iterations
    before = collector.stream.dealt, collector.generated
    try:
        return collector.collect()
    except Exception:
        collector.stream.dealt, collector.generated = before
        if run.processes.count == 1:  # the others would be waited for
            _checkpoint(run)
        raise


def _settle_log_probs(run: Run, iteration: dict[str, Tensor]) -> None:
    """Compare engine and trainer once, and take the trainer's log-probs where the config says so."""
    if run.engine_mismatch is None:
        run.engine_mismatch = engine_mismatch(run.learner, iteration)
        if run.processes.is_main:
            print(f"engine mismatch E[(rho-1)^2] before the first step: {run.engine_mismatch:.2e}")
            warning = mismatch_warning(run.engine_mismatch, run.config.delta)
            if warning and run.config.behaviour_log_probs == "engine":
                _log.warning(warning)
    if run.config.behaviour_log_probs == "trainer":
        run.learner.rescore(iteration)


def _held_out(run: Run) -> dict[str, float | None]:
    """A point of the curve where one is due; the first line also has the point before training."""
    config = run.config
    due = config.eval_every and run.iterations % config.eval_every == 0
    point: dict[str, float | None] = {"accuracy_greedy": None}
    if due and run.eval_problems:
        point = point_on_the_way(run)
    if run.iterations == 1 and run.first_accuracy is not None:
        point |= {"first_accuracy_greedy": run.first_accuracy, "first_pass_at_1": run.first_pass_at_1}
    return point


def _watch_rewards(run: Run, groups: list[Group]) -> None:
    if any(group.mixed for group in groups):
        run.uninformative_iterations = 0
        return
    run.uninformative_iterations += 1
    if run.uninformative_iterations == UNINFORMATIVE_LIMIT and run.processes.is_main:
        _log.warning(
            "all rewards within each group were equal for %d iterations: there is nothing to learn from. Look at "
            "completions.jsonl; easier or harder problems, another reward or more completions per prompt may help.",
            UNINFORMATIVE_LIMIT,
        )


def _end_iteration(run: Run) -> None:
    try:
        run.collector.watch.end_iteration()
    except NoVerdicts:
        _checkpoint(run)
        raise


def _report(run: Run, metrics: dict[str, Any], line: LiveLine) -> None:
    lam = metrics["lam"] if run.learner.updater.objective.uses_dual else None
    line.update(
        run.rollouts,
        reward=metrics["reward"],
        accuracy=run.last_accuracy,
        ratio_var=metrics.get("ratio_variance"),
        **{"lambda": lam},
    )
    head = {"step": run.rollouts, "time": run.train_seconds, "learning_rate": run.learning_rate()}
    speed = run.rollouts / run.train_seconds
    run.logger.iteration({**head, "samples_per_second": speed, **metrics})


def _checkpoint(run: Run) -> None:
    if run.directory is not None:
        run.directory.save_checkpoint(take_snapshot(run))


def _agreed(run: Run, stop: StopRequest) -> bool:
    """Whether to stop: one process asked to is enough for all."""
    return any(run.processes.gather([bool(stop)]))


def engine_mismatch(learner: TokenLearner, iteration: dict[str, Tensor]) -> float:
    """E[(rho-1)^2] between trainer and engine before the first gradient step; 0 where they agree exactly.

    Args:
        learner: Holds the weights that generated the iteration.
        iteration: From :func:`r2vpo.llm.experience.pack`.
    """
    samples = unpack(iteration, age=0)[:MISMATCH_SAMPLES]
    engine = torch.cat([sample.old_log_probs for sample in samples]).double()
    trainer = torch.cat(learner.log_probs(samples)).double()
    return float((trainer - engine).expm1().square().mean())


def mismatch_warning(mismatch: float, delta: float | None) -> str | None:
    """A warning when the engine alone uses up a tenth of delta (or of 0.01 where lambda is fixed)."""
    budget = 0.01 if delta is None else delta
    if mismatch < 0.1 * budget:
        return None
    what = "0.01, a usual ratio variance" if delta is None else f"delta={delta:g}"
    return (
        f"the engine's log-probs differ from the trainer's by E[(rho-1)^2] = {mismatch:.2e}, close to {what}: "
        "the penalty will measure the engine. Use the same precision in both, or behaviour_log_probs='trainer'."
    )


@contextmanager
def advice_when_memory_runs_out(config: LLMConfig) -> Iterator[None]:
    """Turn torch's out-of-memory errors into one that names the settings to lower.

    Raises:
        OutOfMemory: The GPU's memory, or the machine's, ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        names = ["tokens_per_micro_batch", "prompts_per_iteration", "max_completion_tokens"]
        settings = ", ".join(f"{name}={getattr(config, name)}" for name in names)
        extra = "" if config.gradient_checkpointing else "; or set gradient_checkpointing"
        raise OutOfMemory(f"out of memory: lower {settings}{extra}, or train adapters with lora_rank") from error


def _is_out_of_memory(error: BaseException) -> bool:
    # On the CPU torch raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def finish_run(run: Run) -> dict[str, Any]:
    """Evaluate, and in a run directory write model, summary and curve. Every process calls it.

    Returns:
        The summary. What could not be had is named in it under ``missing``, with the reason.

    Raises:
        RolloutError: The engine failed; everything else is written.
    """
    config, directory = run.config, run.directory
    summary: dict[str, Any] = {
        "model": config.model,
        "dataset": config.dataset,
        "method": config.method,
        "algo": config.algo,
        "objective": config.objective,
        "seed": config.seed,
        "rollouts": run.rollouts,
        "iterations": run.iterations,
        "accuracy_greedy": None,
        "pass_at_1": None,
        "eval_problems": len(run.eval_problems),
        "first_accuracy_greedy": run.first_accuracy,
        "first_pass_at_1": run.first_pass_at_1,
        "engine": run.engine_name,
        "engine_mismatch": run.engine_mismatch,
        "processes": run.processes.count,
        "samples_per_second": run.rollouts / max(run.train_seconds, 1e-9),
        "train_seconds": run.train_seconds,
        "versions": package_versions(),
    }
    missing = {"evaluation": "it was stopped before its end"} if run.eval_problems else {}

    def write() -> None:
        if directory is not None:
            directory.write_summary({**summary, "missing": missing} if missing else summary)

    def measure() -> None:
        summary["accuracy_greedy"] = judged_accuracy(run.collector, run.eval_problems)
        if config.eval_samples:
            asked = (config.eval_samples, EVAL_TEMPERATURE, EVAL_TOP_P)
            summary["pass_at_1"] = judged_accuracy(run.collector, run.eval_problems, *asked)

    def draw() -> None:
        from r2vpo.llm.experiments.curves import draw_curve

        if directory is not None:
            draw_curve([directory.path], directory.path / CURVE)

    if directory is not None:
        save_pretrained(run.model, run.tokenizer, directory.path / MODEL)
    write()  # what is known stands from here on, however the rest ends
    failure: RolloutError | None = None
    for name, part in {"curve": draw, **({"evaluation": measure} if run.eval_problems else {})}.items():
        try:
            part()
            missing.pop(name, None)
        except Exception as error:  # whatever a reward raises: the run is trained, and stays so
            missing[name] = f"{type(error).__name__}: {error}"
            _log.warning("no %s: %s; the run is trained all the same", name, missing[name])
            failure = error if isinstance(error, RolloutError) else failure
    write()
    if failure is not None:  # no reward's doing: the engine, or a model whose logits are no numbers
        raise failure
    return {**summary, "missing": missing} if missing else summary
