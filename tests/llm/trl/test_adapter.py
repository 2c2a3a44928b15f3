"""The TRL adapter: its loss is the core's, its data is TRL's replayed, its state survives, and it says no in time."""

from __future__ import annotations

import copy
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("trl")

from tiny_models import tiny_model
from trl_two_processes import NoisyTrainer, logged, make_trainer, settings, share_of_digits

from r2vpo import errors as host_versions
from r2vpo.diagnostics import ratio_diagnostics
from r2vpo.dual import DualController
from r2vpo.errors import CheckpointError, ConfigError, HostVersionError, TrainingDiverged
from r2vpo.llm.trl.replay import to_iteration
from r2vpo.objectives import make_objective

TOLERANCE = 1e-6
"""Relative to the largest element. Models are in float64; what is left is the float32 of TRL's log-probs."""
LENGTHS = [(5, 7), (2, 3), (9, 6), (4, 1), (3, 8), (5, 7), (1, 12), (6, 2)]


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def generation(lengths, seed, tools=False):
    """What TRL generates for these (prompt, completion) lengths, with random log-probs and advantages."""
    generator = torch.Generator().manual_seed(seed)

    def padded(rows, side):
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side=side)

    prompts = [torch.randint(3, 64, (p,), generator=generator) for p, _ in lengths]
    completions = [torch.randint(3, 64, (c,), generator=generator) for _, c in lengths]
    batch = {
        "prompt_ids": padded(prompts, "left"),
        "prompt_mask": padded([torch.ones_like(ids) for ids in prompts], "left"),
        "completion_ids": padded(completions, "right"),
        "completion_mask": padded([torch.ones_like(ids) for ids in completions], "right"),
        "advantages": torch.randn(len(lengths), generator=generator),
    }
    batch["old_per_token_logps"] = -2.0 + 0.4 * torch.randn(batch["completion_ids"].shape, generator=generator)
    if tools:
        batch["tool_mask"] = (torch.rand(batch["completion_ids"].shape, generator=generator) < 0.7).long()
    return batch


def of_core(model, batches, objective, temperature=1.0, **hyperparameters):
    """Loss, gradients and log-ratios of all samples together, one unpadded sequence at a time."""
    model.zero_grad()
    elementwise, log_ratios = [], []
    for batch in batches:
        for row, advantage in enumerate(batch["advantages"]):
            prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()]
            kept = batch["completion_mask"][row].bool()
            ids, old = batch["completion_ids"][row][kept], batch["old_per_token_logps"][row][kept]
            counts = batch["tool_mask"][row][kept].bool() if "tool_mask" in batch else torch.ones_like(ids).bool()
            logits = model(torch.cat([prompt, ids])[None]).logits[0, len(prompt) - 1 : -1] / temperature
            log_prob = logits.log_softmax(-1).gather(1, ids[:, None]).T
            arguments = (log_prob, old[None].double(), advantage.double().expand_as(log_prob), counts[None])
            elementwise.append(make_objective(objective, **hyperparameters)(*arguments)[0, counts])
            log_ratios.append((log_prob[0] - old).detach()[counts])
    loss = torch.cat(elementwise).mean()
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in model.named_parameters()}, torch.cat(log_ratios)


def assert_same_gradients(gradients, expected):
    scale = max(float(values.abs().max()) for values in expected.values())
    assert scale > 1e-3
    for name, values in expected.items():
        torch.testing.assert_close(gradients[name], values, rtol=0, atol=TOLERANCE * scale, msg=name)


@pytest.mark.parametrize(
    ("objective", "hyperparameters"), [("r2vpo", {"lam": 0.7}), ("ppo_clip", {"eps": 0.1}), ("gspo", {"eps_low": 0.02})]
)
def test_loss_and_gradient_are_the_cores(tmp_path, objective, hyperparameters):
    """On two generations of other pad widths, in micro-batches that mix them and have unequal numbers of tokens."""
    kept = {"lam": 0.5} | hyperparameters if objective == "r2vpo" else hyperparameters
    trainer = make_trainer(
        tmp_path, temperature=0.7, objective=objective, per_device_train_batch_size=4, steps_per_generation=2, **kept
    )
    stored = [generation(LENGTHS[:3], 0, tools=True), generation(LENGTHS[3:], 1)]
    for batch in stored:
        trainer.replay.add(to_iteration(batch), len(batch["advantages"]))
    count = int((stored[0]["completion_mask"] * stored[0]["tool_mask"]).sum() + stored[1]["completion_mask"].sum())
    trainer._draws.extend([(torch.tensor([6, 1, 4, 0]), count), (torch.tensor([3, 7, 2, 5]), count)])
    trainer.current_gradient_accumulation_steps = 2
    trainer.model.train()
    trainer.model.zero_grad()
    total = 0.0
    for last in (False, True):
        trainer.accelerator.gradient_state._set_sync_gradients(last)
        loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(None))
        loss.backward()
        total += float(loss.detach())
    gradients = {n: p.grad.clone() for n, p in trainer.model.named_parameters()}
    expected, expected_gradients, log_ratio = of_core(trainer.model, stored, objective, 0.7, **hyperparameters)
    assert total == pytest.approx(expected, rel=TOLERANCE)
    assert_same_gradients(gradients, expected_gradients)
    measured = ratio_diagnostics(log_ratio, torch.zeros_like(log_ratio))
    for name in ("ratio_variance", "max_ratio", "ess", "kl"):
        assert trainer._metrics["train"][name] == [pytest.approx(measured[name], rel=1e-5)]


def test_gradients_do_not_depend_on_the_cut(tmp_path):
    """The same rollout in one micro-batch and in two, through the training loop of transformers."""
    trainers = []
    for size, parts in ((8, 1), (4, 2)):
        trainer = make_trainer(
            tmp_path, NoisyTrainer, per_device_train_batch_size=size, gradient_accumulation_steps=parts, max_steps=1
        )
        trainer.train()
        trainers.append(trainer)
    whole, cut = trainers
    lengths = [int(part["completion_mask"].sum()) for part in cut.seen]
    assert lengths[0] != lengths[1]
    assert sum(lengths) == int(whole.seen[0]["completion_mask"].sum())
    assert_same_gradients(cut.gradients[0], whole.gradients[0])
    for name in ("loss", "ratio_variance", "max_ratio"):
        assert logged(cut, name) == [pytest.approx(logged(whole, name)[0], rel=1e-5)]


def rows(batch):
    """Prompt, completion and log-probs of every sample, without padding."""
    for row in range(len(batch["advantages"])):
        prompt, kept = batch["prompt_mask"][row].bool(), batch["completion_mask"][row].bool()
        ids = (batch["prompt_ids"][row][prompt].tolist(), batch["completion_ids"][row][kept].tolist())
        yield (*map(tuple, ids), tuple(batch["old_per_token_logps"][row][kept].tolist()))


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


RESUMABLE = {
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


def test_masked_truncated_completions_give_no_loss_and_no_dual_step(tmp_path):
    trainer = make_trainer(
        tmp_path,
        NoisyTrainer,
        max_completion_length=1,
        mask_truncated_completions=True,
        max_steps=2,
        dual="paper",
        delta=1,
    )
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.eos_token_ids = []
    trainer.train()
    assert logged(trainer, "lam") == [0.5, 0.5]
    assert all(torch.equal(values, before[name]) for name, values in trainer.model.state_dict().items())


def test_router_loss_of_a_mixture_of_experts_is_added(tmp_path):
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    torch.manual_seed(0)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    experts["shared_expert_intermediate_size"] = 16
    model = Qwen2MoeForCausalLM(Qwen2MoeConfig(**tiny_model().config.to_dict() | experts | {"model_type": "qwen2_moe"}))
    trainer = make_trainer(tmp_path, model=model, router_aux_loss_coef=0.5)
    batch = generation(LENGTHS, 0) | {"num_items_in_batch": torch.tensor(46)}
    trainer.current_gradient_accumulation_steps = 2
    trainer.model.train()
    with_router = trainer.compute_loss(trainer.model, batch)
    trainer.aux_loss_enabled = False
    without = trainer.compute_loss(trainer.model, batch)
    [router_loss] = trainer._metrics["train"]["aux_loss"]
    assert router_loss > 0.1
    assert float(with_router - without) == pytest.approx(0.5 * router_loss / 2, rel=1e-3)


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


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("beta", {"beta": 0.04}),
        ("loss_type", {"loss_type": "grpo"}),
        ("importance_sampling_level", {"importance_sampling_level": "sequence"}),
        ("epsilon", {"epsilon": 0.1}),
        ("epsilon_high", {"epsilon_high": 0.28}),
        ("vllm_importance_sampling_correction", {"vllm_importance_sampling_correction": True}),
        ("off_policy_mask_threshold", {"off_policy_mask_threshold": 0.5}),
        ("top_entropy_quantile", {"top_entropy_quantile": 0.2}),
        ("entropy_coef", {"entropy_coef": 0.01}),
        ("use_adaptive_entropy", {"use_adaptive_entropy": True}),
        ("top_p", {"top_p": 0.9}),
        ("top_k", {"top_k": 20}),
        ("min_p", {"min_p": 0.1}),
        ("repetition_penalty", {"repetition_penalty": 1.1}),
        ("generation_kwargs", {"generation_kwargs": {"typical_p": 0.9}}),
        ("objective", {"objective": "trpo"}),
        ("eps", {"eps": 0.1}),
        ("lam", {"lam": -1.0}),
        ("dual", {"dual": "newton"}),
        ("delta", {"dual": "paper"}),
        ("delta", {"dual": "paper", "delta": 0.0}),
        ("buffer_iterations", {"buffer_iterations": 0}),
        ("utd", {"utd": 1.5}),
        ("utd", {"utd": 0}),
        ("num_iterations", {"num_iterations": 4}),
        ("behaviour_log_probs", {"behaviour_log_probs": "vllm"}),
        ("gradient_accumulation_steps", {"gradient_accumulation_steps": 4, "steps_per_generation": 1}),
    ],
)
def test_contradicting_settings_are_named(tmp_path, field, given):
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, **given)
    assert caught.value.field == field
    assert f"{field}=" in str(caught.value)


def test_settings_changed_later_and_foreign_ones_are_refused(tmp_path):
    import trl
    from datasets import Dataset

    from r2vpo.llm.trl import R2VPOTrainer

    changed = settings(tmp_path)
    changed.beta = 0.1
    plain = trl.GRPOConfig(str(tmp_path), use_cpu=True, bf16=False, num_generations=4)
    for args, field in ((changed, "beta"), (plain, "args")):
        with pytest.raises(ConfigError) as caught:
            R2VPOTrainer(model="no/such-model", reward_funcs=share_of_digits, args=args)
        assert caught.value.field == field
    images = Dataset.from_list([{"prompt": "1+1=", "image": "a"}])
    with pytest.raises(ConfigError, match="images are not replayed"):
        R2VPOTrainer("no/such-model", share_of_digits, settings(tmp_path), images)


@pytest.mark.parametrize("installed", ["1.15.3", "1.17.0", None])
def test_other_versions_of_trl_are_refused(monkeypatch, installed):
    def version(distribution):
        assert distribution == "trl"
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(distribution)
        return installed

    monkeypatch.setattr(host_versions, "version", version)
    with pytest.raises(HostVersionError, match=r"trl.*>=1\.16,<1\.17.*r2vpo\[trl\]") as caught:
        importlib.reload(sys.modules["r2vpo.llm.trl"])
    assert (installed or "not installed") in str(caught.value)


def test_importing_the_library_does_not_import_trl():
    code = "import sys, r2vpo, r2vpo.llm; assert not {'trl', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


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
    for name in ("lam", "ratio_variance", "weights"):
        assert summaries[0][name] == summaries[1][name]
    steps = [torch.load(tmp_path / f"step_{rank}.pt") for rank in (0, 1)]
    shares = [part for step in steps for part in step["seen"]]
    assert sorted(rows(shares[0])) != sorted(rows(shares[2]))
    assert len({int(part["completion_mask"].sum()) for part in shares}) > 1
    _, expected, log_ratio = of_core(tiny_model().double(), shares, "r2vpo", lam=0.5)
    for step in steps:
        assert_same_gradients(step["gradient"], expected)
    variance = ratio_diagnostics(log_ratio, log_ratio)["ratio_variance"]
    assert summaries[0]["ratio_variance"][0] == pytest.approx(variance, rel=1e-5)
