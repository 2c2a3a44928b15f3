"""A training run of a language model: what it is made of, how far it is, and what it writes down.

The loop moves a run, a checkpoint keeps it as one tree of plain values, and :class:`r2vpo.llm.R2VPOTrainer` is one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from r2vpo.errors import CheckpointError
from r2vpo.llm.collection import Collector, Group
from r2vpo.llm.config import LLMConfig
from r2vpo.llm.data.problems import Problem
from r2vpo.llm.distributed import AcceleratedProcesses
from r2vpo.llm.engines.base import RolloutEngine
from r2vpo.llm.learner import TokenLearner
from r2vpo.runs.directory import RunDirectory, writing
from r2vpo.runs.logger import Logger
from r2vpo.runs.provenance import package_versions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

KIND = "r2vpo.llm"
COMPLETIONS, TOKENS, MODEL = "completions.jsonl", "tokens.npz", "model"

_COUNTERS = (
    "rollouts",
    "iterations",
    "train_seconds",
    "uninformative_iterations",
    "engine_mismatch",
    "first_accuracy",
    "last_accuracy",
    "first_pass_at_1",
)


@dataclass(eq=False, repr=False)
class Run:
    """The parts of a run and its counters."""

    config: LLMConfig
    processes: AcceleratedProcesses
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    learner: TokenLearner
    engine: RolloutEngine
    engine_name: str
    """Which one it is and why."""
    collector: Collector
    eval_problems: list[Problem]
    """Held out."""
    directory: RunDirectory | None = None
    """None in all processes but the main one, and where nothing is to be written."""
    logger: Logger = field(default_factory=Logger)

    rollouts: int = 0
    """Completions trained on so far."""
    iterations: int = 0
    train_seconds: float = 0.0
    uninformative_iterations: int = 0
    """Iterations in a row in which no group had mixed rewards."""
    engine_mismatch: float | None = None
    """E[(rho-1)^2] between trainer and engine before the first gradient step."""
    first_accuracy: float | None = None
    """Greedy accuracy before training."""
    last_accuracy: float | None = None
    first_pass_at_1: float | None = None
    """Of sampled answers before training."""

    def logged(self) -> AbstractContextManager[Logger]:
        """The logger, writing to the run directory and to what the config tracks the run with: in the main process."""
        track = self.config.track if self.processes.is_main else ()
        return self.logger.opened(self.directory, track, asdict(self.config), self.rollouts)

    def learning_rate(self) -> float:
        """Of the next update."""
        rate = self.config.learning_rate
        if self.iterations < self.config.warmup_iterations:
            rate *= (self.iterations + 1) / (self.config.warmup_iterations + 1)
        if self.config.lr_schedule == "linear":
            rate *= max(0.0, 1.0 - self.rollouts / self.config.total_rollouts)
        return rate


def take_snapshot(run: Run) -> dict[str, Any]:
    """Everything a run needs to go on bit for bit; call between two iterations."""
    return {
        "kind": KIND,
        "versions": package_versions(),
        "config": asdict(run.config),
        "learner": run.learner.state_dict(),
        "generator": run.learner.generator.get_state(),
        "stream": run.collector.stream.dealt,
        "generated": run.collector.generated,
        "dataset": run.collector.stream.fingerprint,
        "judged": run.collector.watch.ever,
        "counters": {name: getattr(run, name) for name in _COUNTERS},
    }


def restore_snapshot(run: Run, tree: dict[str, Any]) -> None:
    """Put back what :func:`take_snapshot` returned.

    Raises:
        CheckpointError: It is not of such a run, or of another model or dataset.
    """
    if tree.get("kind") != KIND:
        raise CheckpointError(f"the checkpoint is of kind {tree.get('kind')!r}, not {KIND!r}")
    now = run.collector.stream.fingerprint
    if tree.get("dataset", now) != now:  # older checkpoints do not say
        raise CheckpointError(
            f"dataset={run.config.dataset!r} has changed since the checkpoint ({tree['dataset']}; now {now}): give the "
            "rows that the run was started with, or start a new run from its model"
        )
    try:
        run.learner.load_state_dict(tree["learner"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint does not fit model={run.config.model!r}: {error}") from error
    run.learner.generator.set_state(tree["generator"])
    run.collector.stream.dealt = tree["stream"]
    run.collector.generated = tree["generated"]
    run.collector.watch.ever = tree.get("judged", True)  # older checkpoints do not say
    for name in _COUNTERS:
        setattr(run, name, tree["counters"].get(name))  # older checkpoints have fewer
    run.engine.sync_weights(run.model, run.iterations)


def log_completions(run: Run, groups: Sequence[Group]) -> None:
    """Append the best and the worst completion of the first groups of an iteration, to read."""
    assert run.directory is not None
    lines = []
    for group in list(groups)[: run.config.log_completions // 2]:
        order = np.argsort(np.nan_to_num(group.rewards, nan=-np.inf))
        for place, index in (("best", order[-1]), ("worst", order[0])):
            completion, reward = group.completions[index], float(group.rewards[index])
            lines.append(
                {
                    **{name: values[index] for name, values in group.extra.items()},
                    "step": run.rollouts,
                    "which": place,
                    "prompt": group.problem.row[run.config.prompt_column],
                    "completion": run.collector.decode(completion.tokens.tolist()),
                    "reward": None if np.isnan(reward) else reward,
                    "tokens": len(completion.tokens),
                    "finished": completion.finished,
                }
            )
    path = run.directory.path / COMPLETIONS
    with writing(path), path.open("a") as file:
        file.writelines(json.dumps(line, default=str) + "\n" for line in lines)


def write_recent_tokens(run: Run) -> None:
    """Ratios and behaviour log-probs of some thousand tokens of an update, for the paper's Figure 2.

    The file holds the last update before the learning rate fell below half: where it decays to 0, the ratios of the
    very last updates are all 1 and show nothing.
    """
    recent = run.learner.updater.recent
    if run.directory is None or recent is None:
        return
    path = run.directory.path / TOKENS
    if path.exists() and run.learning_rate() < run.config.learning_rate / 2:
        return
    temporary = path.with_name(f".{TOKENS}.{os.getpid()}.npz")
    arrays = {name: getattr(recent, name) for name in ("old_log_prob", "log_ratio", "advantage", "age")}
    present = {name: values.cpu().float().numpy() for name, values in arrays.items() if values is not None}
    with writing(path):
        np.savez_compressed(temporary, step=run.rollouts, **present)
        temporary.replace(path)
