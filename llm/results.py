"""What a run writes beside its metrics: sample completions, tokens for the figures, summary, curve, and the model."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from r2vpo.llm.held_out import accuracy
from r2vpo.provenance import package_versions
from r2vpo.run_directory import CURVE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from r2vpo.llm.collection import Group
    from r2vpo.llm.trainer import R2VPOTrainer

COMPLETIONS, TOKENS, MODEL = "completions.jsonl", "tokens.npz", "model"

EVAL_TEMPERATURE, EVAL_TOP_P = 0.6, 0.95
"""Sampling of the closing evaluation (arXiv 2601.03320, section 5.1)."""


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


def finish_run(trainer: R2VPOTrainer) -> dict[str, Any]:
    """Evaluate, and in a run directory write model, summary and curve. Every process calls it.

    Returns:
        The summary.
    """
    config = trainer.config
    final: dict[str, float | None] = {"accuracy_greedy": None, "pass_at_1": None}
    if trainer.eval_problems:
        final["accuracy_greedy"] = accuracy(trainer.collector, trainer.eval_problems)
        if config.eval_samples:
            final["pass_at_1"] = accuracy(
                trainer.collector, trainer.eval_problems, config.eval_samples, EVAL_TEMPERATURE, EVAL_TOP_P
            )
    summary = {
        "model": config.model,
        "dataset": config.dataset,
        "method": config.method,
        "algo": config.algo,
        "objective": config.objective,
        "seed": config.seed,
        "rollouts": trainer.rollouts,
        "iterations": trainer.iterations,
        **final,
        "eval_problems": len(trainer.eval_problems),
        "first_accuracy_greedy": trainer.first_accuracy,
        "engine": trainer.engine_name,
        "engine_mismatch": trainer.engine_mismatch,
        "processes": trainer.processes.count,
        "samples_per_second": trainer.rollouts / max(trainer.train_seconds, 1e-9),
        "train_seconds": trainer.train_seconds,
        "versions": package_versions(),
    }
    if trainer.run is not None:
        trainer.save_model(trainer.run.path / MODEL)
        trainer.run.write_summary(summary)
        from r2vpo.llm.figures import draw_curve

        draw_curve([trainer.run.path], trainer.run.path / CURVE)
    return summary
