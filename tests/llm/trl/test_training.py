"""Training with the TRL adapter: it improves, lambda moves, evaluation and failures leave things alone."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("trl")

from tiny_models import tiny_model
from trl_batches import assert_same_gradients, of_core, rows
from trl_two_processes import NoisyTrainer, logged, make_trainer

from r2vpo.diagnostics import ratio_diagnostics
from r2vpo.dual import DualController
from r2vpo.errors import TrainingDiverged


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_lambda_moves_once_per_optimizer_step(tmp_path):
    trainer = make_trainer(
        tmp_path,
        NoisyTrainer,
        dual="paper",
        delta=0.01,
        eta=0.5,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_steps=4,
    )
    trainer.train()
    assert len(trainer.seen) == 8
    dual = DualController(0.5, 0.01, 0.5, "paper")
    assert logged(trainer, "lam") == [dual.update(value) for value in logged(trainer, "ratio_variance")]
    _, _, log_ratio = of_core(tiny_model().double(), trainer.seen[:2], "r2vpo")
    assert logged(trainer, "ratio_variance")[0] == pytest.approx(
        ratio_diagnostics(log_ratio, log_ratio)["ratio_variance"], rel=1e-5
    )


def test_training_improves(tmp_path):
    trainer = make_trainer(
        tmp_path,
        model=tiny_model(),
        per_device_train_batch_size=16,
        steps_per_generation=2,
        num_generations=8,
        max_completion_length=4,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        max_steps=40,
        dual="adaptive",
        lam=0.1,
        delta=0.1,
        max_grad_norm=1.0,
    )
    trainer.train()
    rewards = logged(trainer, "reward")
    assert len(rewards) == 10
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.2
    assert all(value > 0 for value in logged(trainer, "grad_norm"))


def test_evaluation_leaves_buffer_and_lambda_alone(tmp_path):
    trainer = make_trainer(tmp_path, dual="paper", delta=0.01, eta=0.5, per_device_eval_batch_size=8)
    trainer.model.train()
    trainer._prepare_inputs([{"prompt": "1+1="}] * 8)
    draws = len(trainer._draws)
    metrics = trainer.evaluate(trainer.train_dataset.select(range(2)))
    assert metrics["eval_ratio_variance"] == pytest.approx(0.0, abs=1e-8)
    assert metrics["eval_entropy"] > 0
    assert (trainer.dual.lam, trainer.replay.sizes, len(trainer._draws)) == (0.5, (8,), draws)


def test_non_finite_log_probs_stop_the_run_before_the_step(tmp_path):
    trainer = make_trainer(
        tmp_path, NoisyTrainer, max_steps=1, per_device_train_batch_size=4, gradient_accumulation_steps=2
    )
    before = copy.deepcopy(trainer.model.state_dict())
    score = trainer._score

    def broken(model, inputs, **options):
        log_prob, *others = score(model, inputs, **options)
        first = len(trainer.seen) == 1
        return (torch.where(inputs["completion_mask"].bool(), torch.nan, log_prob) if first else log_prob, *others)

    trainer._score = broken
    with pytest.raises(TrainingDiverged, match="non-finite"):
        trainer.train()
    assert len(trainer.seen) == 2
    assert all(torch.equal(values, before[name]) for name, values in trainer.model.state_dict().items())


@pytest.mark.slow
def test_two_processes_are_one_trainer(tmp_path):
    """Gradient of both shares together, one lambda, a buffer share each, and a resume that changes nothing."""
    script = Path(__file__).parents[2] / "support" / "trl_two_processes.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, str(script), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    summaries = [json.loads((tmp_path / f"summary_{rank}.json").read_text()) for rank in (0, 1)]
    for summary in summaries:
        assert summary["processes"] == 2
        assert summary["sizes"] == [8, 8, 8]
        assert summary["same_weights"]
        assert summary["same_buffer"]
        assert summary["resumed_lam"] == summary["lam"][3:]
    assert len(set(summaries[0]["lam"])) == 6
    for name in ("lam", "ratio_variance", "proximal_variance", "weights"):
        assert summaries[0][name] == summaries[1][name]
    steps = [torch.load(tmp_path / f"step_{rank}.pt") for rank in (0, 1)]
    first, second, next_generation = summaries[0]["proximal_variance"]
    assert max(first, next_generation) < 1e-9 < second
    for run, objective, hyperparameters in (
        ("proximal", "r2vpo", {"lam": 0.5}),
        ("m2po", "m2po", {}),
        ("r2vpo", "r2vpo", {"lam": 0.5}),
    ):
        shares = [part for step in steps for part in step[run]["seen"]]
        assert sorted(rows(shares[0])) != sorted(rows(shares[2]))
        assert len({int(part["completion_mask"].sum()) for part in shares}) > 1
        _, expected, log_ratio = of_core(tiny_model().double(), shares, objective, **hyperparameters)
        for step in steps:
            assert_same_gradients(step[run]["gradient"], expected)
    variance = ratio_diagnostics(log_ratio, log_ratio)["ratio_variance"]
    assert summaries[0]["ratio_variance"][0] == pytest.approx(variance, rel=1e-5)
