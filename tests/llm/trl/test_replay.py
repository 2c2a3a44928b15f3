"""Replay inside TRL: what is stored, drawn, saved and resumed."""

from __future__ import annotations

import shutil

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("trl")

from trl_batches import assert_same_gradients, rows
from trl_two_processes import KeepGradients, NoisyTrainer, logged, make_trainer

from r2vpo.errors import CheckpointError, ConfigError
from r2vpo.llm.trl.replay import collate


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


class RecordingTrainer(NoisyTrainer):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.generated = []

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        self.generated.append(sorted(rows(batch)))
        return batch


def test_on_policy_every_completion_is_trained_on_once(tmp_path):
    trainer = make_trainer(
        tmp_path,
        RecordingTrainer,
        buffer_iterations=1,
        utd=1,
        per_device_train_batch_size=4,
        steps_per_generation=2,
        max_steps=6,
    )
    trainer.train()
    assert len(trainer.generated) == 3
    for k, generated in enumerate(trainer.generated):
        assert sorted(row for part in trainer.seen[2 * k : 2 * k + 2] for row in rows(part)) == generated
    assert logged(trainer, "buffer/age") == [0.0] * 6


def test_replay_is_first_in_first_out_and_pays_for_what_utd_says(tmp_path):
    trainer = make_trainer(
        tmp_path,
        RecordingTrainer,
        buffer_iterations=2,
        utd=3,
        per_device_train_batch_size=4,
        steps_per_generation=2,
        max_steps=18,
    )
    trainer.train()
    assert len(trainer.generated) == 3
    last = [row for part in trainer.seen[12:] for row in rows(part)]
    assert len(last) == 3 * 8
    # Passes over the whole buffer: of the last two generations every sample once, then half of them again.
    assert sorted(last[:16]) == sorted(trainer.generated[1] + trainer.generated[2])
    ages = torch.cat([part["age"] for part in trainer.seen[12:16]])
    assert sorted(ages.tolist()) == [0] * 8 + [1] * 8
    assert logged(trainer, "buffer/iterations") == [1] * 6 + [2] * 12
    assert trainer.replay.sizes == (8, 8)


@pytest.mark.parametrize("behaviour", ["engine", "trainer"])
def test_log_probs_of_the_sampling_policy_are_stored(tmp_path, behaviour):
    """With whole steps per generation TRL would leave them out; an engine's own are taken, but for unscored tokens."""
    trainer = make_trainer(
        tmp_path, utd=1, per_device_train_batch_size=4, gradient_accumulation_steps=2, behaviour_log_probs=behaviour
    )
    trainer.model.train()
    rollouts = [{"prompt": prompt} for prompt in ("1+1=", "abc") for _ in range(4)]
    batch = trainer._generate_and_score_completions(rollouts)
    old = batch["old_per_token_logps"]
    with torch.no_grad():
        expected = trainer._score(trainer.model, batch)[0]
    torch.testing.assert_close(old, expected, rtol=0, atol=1e-6)

    generate = trainer._generate_single_turn

    def of_an_engine(*args, **options):
        completions, _ = generate(*args, **options)
        return completions, [[None] + [-0.25] * (len(ids) - 1) for ids in completions]

    trainer._generate_single_turn = of_an_engine
    batch = trainer._generate_and_score_completions(rollouts)
    with torch.no_grad():
        expected = trainer._score(trainer.model, batch)[0]
    if behaviour == "engine":
        expected[:, 1:] = -0.25
    mask = batch["completion_mask"].bool()
    torch.testing.assert_close(batch["old_per_token_logps"][mask], expected[mask], rtol=0, atol=1e-6)


class BehaviourToo(NoisyTrainer):
    """What each step sees, with the log-probs of the policy that sampled."""

    def _drawn(self, positions, count):
        stored = collate(self.replay, positions, 0)["old_per_token_logps"]
        return {**super()._drawn(positions, count), "behaviour": stored}


def test_at_the_proximal_anchor_the_ratio_starts_at_one_and_truncated_ratios_weigh_the_advantages(tmp_path):
    """Three generations of two optimizer steps, each of two micro-batches."""
    cut = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "steps_per_generation": 2}
    trainer = make_trainer(
        tmp_path, BehaviourToo, anchor="proximal", buffer_iterations=3, utd=2, max_steps=6, learning_rate=1e-2, **cut
    )
    forward_passes, original = [], trainer._score
    trainer._score = lambda *arguments, **options: forward_passes.append(1) or original(*arguments, **options)
    trainer.train()
    variances = logged(trainer, "ratio_variance")
    assert max(variances[::2]) < 1e-9 < 1e-6 < min(variances[1::2])
    # Each update trains on four micro-batches; in the first they are the same samples twice, scored anew once.
    assert len(forward_passes) == 3 * 4 + (2 + 4 + 4)
    smallest = {}
    for batch in trainer.seen:
        mask = batch["completion_mask"].bool()
        weights = (batch["old_per_token_logps"] - batch["behaviour"]).exp().clamp(max=1.0)
        torch.testing.assert_close(batch["advantage_weights"][mask], weights[mask])
        smallest |= {int(age): float(weights[i][mask[i]].min()) for i, age in enumerate(batch["age"])}
    assert sorted(smallest) == [0, 1, 2]
    assert max(smallest.values()) < 0.9


def test_the_anchors_are_the_same_on_a_fresh_generation(tmp_path):
    once = {"buffer_iterations": 1, "utd": 1, "per_device_train_batch_size": 4, "steps_per_generation": 2}
    once |= {"max_steps": 2, "optim": "sgd", "learning_rate": 0.01, "behaviour_log_probs": "trainer"}
    runs = []
    for anchor in ("behaviour", "proximal"):
        trainer = make_trainer(tmp_path, anchor=anchor, **once)
        gradients = []
        trainer.add_callback(KeepGradients(gradients))
        trainer.train()
        runs.append(gradients)
    for first, second in zip(*runs, strict=True):
        assert_same_gradients(first, second, 1e-5)  # log-probs are in float32


RESUMABLE = {
    "anchor": "proximal",
    "dual": "adaptive",
    "delta": 0.05,
    "per_device_train_batch_size": 4,
    "steps_per_generation": 2,
    "buffer_iterations": 2,
    "max_steps": 8,
    "save_strategy": "steps",
    "save_steps": 6,
}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A whole run, with a checkpoint between two steps on the same generation."""
    directory = tmp_path_factory.mktemp("run")
    trainer = make_trainer(directory, NoisyTrainer, **RESUMABLE)
    trainer.train()
    return directory, trainer


def test_resumed_run_is_the_uninterrupted_one(interrupted):
    directory, whole = interrupted
    shutil.rmtree(directory / "checkpoint-8")
    resumed = make_trainer(directory, NoisyTrainer, **RESUMABLE)
    resumed.train(resume_from_checkpoint=True)
    assert len(resumed.seen) == 2
    assert list(rows(resumed.seen[0])) == list(rows(whole.seen[6]))
    assert logged(resumed, "lam") == logged(whole, "lam")
    assert len(set(logged(whole, "lam"))) > 4
    for mine, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(("name", "value"), [("buffer_iterations", 3), ("utd", 4), ("gradient_accumulation_steps", 2)])
def test_checkpoint_of_other_replay_settings_is_refused(interrupted, name, value):
    directory, _ = interrupted
    trainer = make_trainer(directory, **RESUMABLE | {name: value})
    with pytest.raises(ConfigError, match=rf"{name}={value}"):
        trainer._load_optimizer_and_scheduler(str(directory / "checkpoint-6"))


def test_checkpoint_without_the_adapters_state_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"r2vpo_state_0\.zip"):
        make_trainer(tmp_path)._load_optimizer_and_scheduler(str(tmp_path))
