"""A training run of a language model as one tree of plain values, and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from r2vpo.errors import CheckpointError
from r2vpo.provenance import package_versions

if TYPE_CHECKING:
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
