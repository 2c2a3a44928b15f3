"""Loss and gradients of the TRL adapter are the core's."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("trl")

from tiny_models import tiny_model
from trl_batches import TOLERANCE, assert_same_gradients, of_core
from trl_two_processes import NoisyTrainer, logged, make_trainer

from r2vpo.diagnostics import ratio_diagnostics
from r2vpo.llm.trl.replay import to_iteration

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


@pytest.mark.parametrize(
    ("objective", "hyperparameters"),
    [
        ("r2vpo", {"lam": 0.7}),
        ("onesided", {"lam": 0.7}),
        ("ppo_clip", {"eps": 0.1}),
        ("gspo", {"eps_low": 0.02}),
        ("m2po", {"tau": 0.05}),
    ],
)
def test_loss_and_gradient_are_the_cores(tmp_path, objective, hyperparameters):
    """On two generations of other pad widths, in micro-batches that mix them and have unequal numbers of tokens."""
    kept = hyperparameters if "lam" in hyperparameters else {"objective_kwargs": hyperparameters}
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


@pytest.mark.parametrize("anchor", ["behaviour", "proximal"])
def test_gradients_do_not_depend_on_the_cut(tmp_path, anchor):
    """The same rollout in one micro-batch and in two, through the training loop of transformers."""
    trainers = []
    for size, parts in ((8, 1), (4, 2)):
        trainer = make_trainer(
            tmp_path,
            NoisyTrainer,
            anchor=anchor,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=parts,
            max_steps=2,
        )
        trainer.train()
        trainers.append(trainer)
    whole, cut = trainers
    lengths = [int(part["completion_mask"].sum()) for part in cut.seen]
    assert lengths[0] != lengths[1]
    assert sum(lengths[:2]) == int(whole.seen[0]["completion_mask"].sum())
    assert_same_gradients(cut.gradients[0], whole.gradients[0])
    for name in ("loss", "ratio_variance", "max_ratio"):
        assert logged(cut, name) == pytest.approx(logged(whole, name), rel=1e-5, abs=1e-9)


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
