"""A training run of a language model as one tree of plain values, and back."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from r2vpo.errors import CheckpointError
from r2vpo.runs.provenance import package_versions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from r2vpo.llm.collection import Group
    from r2vpo.llm.trainer import R2VPOTrainer

KIND = "r2vpo.llm"

_COUNTERS = (
    "rollouts",
    "iterations",
    "train_seconds",
    "uninformative_iterations",
    "engine_mismatch",
    "first_accuracy",
    "last_accuracy",
)


def take_snapshot(trainer: R2VPOTrainer) -> dict[str, Any]:
    """Everything a run needs to go on bit for bit; call between two iterations."""
    return {
        "kind": KIND,
        "versions": package_versions(),
        "config": asdict(trainer.config),
        "learner": trainer.learner.state_dict(),
        "generator": trainer.learner.generator.get_state(),
        "stream": trainer.collector.stream.dealt,
        "generated": trainer.collector.generated,
        "counters": {name: getattr(trainer, name) for name in _COUNTERS},
    }


def restore_snapshot(trainer: R2VPOTrainer, tree: dict[str, Any]) -> None:
    """Put back what :func:`take_snapshot` returned.

    Raises:
        CheckpointError: It is not of such a run, or of another model.
    """
    if tree.get("kind") != KIND:
        raise CheckpointError(f"the checkpoint is of kind {tree.get('kind')!r}, not {KIND!r}")
    try:
        trainer.learner.load_state_dict(tree["learner"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint does not fit model={trainer.config.model!r}: {error}") from error
    trainer.learner.generator.set_state(tree["generator"])
    trainer.collector.stream.dealt = tree["stream"]
    trainer.collector.generated = tree["generated"]
    for name in _COUNTERS:
        setattr(trainer, name, tree["counters"][name])


COMPLETIONS, TOKENS, MODEL = "completions.jsonl", "tokens.npz", "model"


def log_completions(trainer: R2VPOTrainer, groups: Sequence[Group]) -> None:
    """Append the best and the worst completion of the first groups of an iteration, to read."""
    assert trainer.run is not None
    lines = []
    for group in list(groups)[: trainer.config.log_completions // 2]:
        order = np.argsort(np.nan_to_num(group.rewards, nan=-np.inf))
        for place, index in (("best", order[-1]), ("worst", order[0])):
            completion, reward = group.completions[index], float(group.rewards[index])
            lines.append(
                {
                    "step": trainer.rollouts,
                    "which": place,
                    "prompt": group.problem.row[trainer.config.prompt_column],
                    "completion": trainer.decode(completion.tokens.tolist()),
                    "reward": None if np.isnan(reward) else reward,
                    "tokens": len(completion.tokens),
                    "finished": completion.finished,
                }
            )
    with (trainer.run.path / COMPLETIONS).open("a") as file:
        file.writelines(json.dumps(line, default=str) + "\n" for line in lines)


def write_recent_tokens(trainer: R2VPOTrainer) -> None:
    """Ratios and behaviour log-probs of some thousand tokens of an update, for the paper's Figure 2.

    The file holds the last update before the learning rate fell below half: where it decays to 0, the ratios of the
    very last updates are all 1 and show nothing.
    """
    recent = trainer.learner.updater.recent
    if trainer.run is None or recent is None:
        return
    path = trainer.run.path / TOKENS
    if path.exists() and trainer.learning_rate() < trainer.config.learning_rate / 2:
        return
    temporary = path.with_name(f".{TOKENS}.{os.getpid()}.npz")
    arrays = {name: getattr(recent, name) for name in ("old_log_prob", "log_ratio", "advantage", "age")}
    present = {name: values.cpu().float().numpy() for name, values in arrays.items() if values is not None}
    np.savez_compressed(temporary, step=trainer.rollouts, **present)
    temporary.replace(path)
