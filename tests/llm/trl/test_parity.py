"""Losses and gradients on one batch beside those of TRL's own GRPOTrainer, micro-batches and padding included.

=====================  ==============================================  ==============================================
TRL                    here                                            normaliser
=====================  ==============================================  ==============================================
``loss_type="grpo"``   ``ppo_clip``, ``seq-mean``                      mean over completions of the mean over tokens
``loss_type="dapo"``   ``clip_higher``, ``token-mean``                 tokens of the whole optimizer step
``loss_type="cispo"``  ``cispo``, ``token-mean``                       the same; TRL's ``epsilon_high`` is our ``cap``:
                                                                       the largest ratio weight itself, not 1 + it
``"grpo"`` with        ``gspo``, ``seq-mean``                          mean over completions
``importance_sampling
_level="sequence"``
``loss_type="sapo"``   ``sapo``, ``seq-mean``                          as for ``grpo``
``loss_type="vespo"``  ``vespo``, ``token-mean``                       as for ``dapo``
=====================  ==============================================  ==============================================

TRL gets the batch in two accumulated micro-batches, padded on both sides; ours is cut by a token budget.
"""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("trl")

from tiny_models import tiny_model, tiny_tokenizer

from r2vpo.llm.config import resolve_config
from r2vpo.llm.distributed import AcceleratedProcesses
from r2vpo.llm.experience import Sample
from r2vpo.llm.learner import TokenLearner
from r2vpo.llm.models.token_policy import TokenPolicy
from r2vpo.objectives import make_objective

LENGTHS = [(5, 7), (2, 3), (9, 6), (4, 1), (3, 8), (5, 7), (1, 12), (6, 2)]
"""Tokens of prompt and completion."""
TEMPERATURE = 0.7
TOLERANCE = 1e-6
"""Relative to scale: of the loss, the largest advantage; of the gradients, their largest element. Both models are in
float64; what is left is the float32 of rotary embeddings and of TRL's log-probs."""

CASES = {
    "grpo": (
        {"loss_type": "grpo", "epsilon": 0.2},
        {"objective": "ppo_clip", "eps": 0.2, "loss_aggregation": "seq-mean"},
    ),
    "dapo": (
        {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28},
        {"objective": "clip_higher", "loss_aggregation": "token-mean"},
    ),
    "cispo": (
        {"loss_type": "cispo", "epsilon_high": 1.3},
        {"objective": "cispo", "cap": 1.3, "loss_aggregation": "token-mean"},
    ),
    "gspo": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.02, "epsilon_high": 0.03},
        {"objective": "gspo", "eps_low": 0.02, "eps_high": 0.03, "loss_aggregation": "seq-mean"},
    ),
    "sapo": (
        {"loss_type": "sapo", "sapo_temperature_pos": 1.5, "sapo_temperature_neg": 2.0},
        {"objective": "sapo", "tau_pos": 1.5, "tau_neg": 2.0, "loss_aggregation": "seq-mean"},
    ),
    "vespo": (
        # Small ones: the exponent magnifies the rounding of TRL's log-probs by k + lambda W.
        {
            "loss_type": "vespo",
            "vespo_k_pos": 0.5,
            "vespo_lambda_pos": 0.4,
            "vespo_k_neg": 0.6,
            "vespo_lambda_neg": 0.3,
        },
        {"objective": "vespo", "k_pos": 0.5, "lam_pos": 0.4, "k_neg": 0.6, "lam_neg": 0.3},
    ),
}


@pytest.fixture(scope="module")
def model():
    return tiny_model(scale=0.3).double()


@pytest.fixture(scope="module")
def samples(model):
    """Random prompts and completions, advantages of both signs, stored log-probs 0.4 nats off."""
    generator = torch.Generator().manual_seed(1)
    tokens = [torch.randint(3, 64, (prompt + length,), generator=generator) for prompt, length in LENGTHS]
    advantages = torch.randn(len(LENGTHS), generator=generator).tolist()
    drawn = []
    for (prompt, length), ids, advantage in zip(LENGTHS, tokens, advantages, strict=True):
        with torch.no_grad():
            logits = model(ids[None]).logits[0, prompt - 1 : -1] / TEMPERATURE
        current = logits.log_softmax(-1).gather(1, ids[prompt:, None])[:, 0]
        old = (current + 0.4 * torch.randn(length, generator=generator)).float()
        drawn.append(Sample(ids[:prompt], ids[prompt:], old, advantage, age=0))
    return drawn


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def test_loss_and_gradients_are_those_of_trl(model, samples, case, tmp_path):
    trl_settings, settings = case
    peer_loss, peer_gradients = of_trl(copy.deepcopy(model), samples, trl_settings, tmp_path)
    loss, gradients = of_ours(copy.deepcopy(model), samples, settings)
    assert abs(loss - peer_loss) <= TOLERANCE * max(abs(sample.advantage) for sample in samples)
    assert gradients.keys() == peer_gradients.keys()
    scale = max(float(values.abs().max()) for values in peer_gradients.values())
    assert scale > 0.01
    for name, values in gradients.items():
        torch.testing.assert_close(values, peer_gradients[name], rtol=0, atol=TOLERANCE * scale, msg=name)


def test_ratio_bounds_are_active_on_this_batch(model, samples, case):
    _, settings = case
    wide = {"eps": 50.0, "eps_low": 0.999, "eps_high": 50.0, "cap": 1e4, "tau_pos": 0.1, "k_neg": 0.1}
    without = settings | {name: value for name, value in wide.items() if name in settings}
    if settings["objective"] == "clip_higher":
        without |= {"eps_low": 0.999, "eps_high": 50.0}
    losses = [of_ours(copy.deepcopy(model), samples, s)[0] for s in (settings, without)]
    assert abs(losses[0] - losses[1]) > 100 * TOLERANCE


def test_weights_of_vespo_are_those_of_trl_at_its_defaults():
    from trl import GRPOTrainer

    generator = torch.Generator().manual_seed(2)
    log_ratio = 0.5 * torch.randn(64, 9, dtype=torch.float64, generator=generator)
    log_ratio[:3] *= torch.tensor([0.0, 30.0, 200.0], dtype=torch.float64)[:, None]
    mask = torch.rand(64, 9, generator=generator) < 0.7
    advantage = torch.randn(64, 1, dtype=torch.float64, generator=generator)
    advantage[3:9] = 0.0
    log_prob = torch.zeros_like(log_ratio).requires_grad_()
    each = advantage.expand_as(log_ratio)
    make_objective("vespo")(log_prob, -log_ratio, each, mask).sum().backward()
    weights = GRPOTrainer.get_gamma_weights(advantage, log_ratio, mask, None)
    torch.testing.assert_close(-log_prob.grad, weights * advantage * mask, rtol=1e-12, atol=1e-12)


def of_ours(model, samples, settings):
    """Loss and gradients of one step of the learner's own updater, in several micro-batches."""
    kept = {name: value for name, value in settings.items() if name in ("objective", "loss_aggregation")}
    kwargs = {name: value for name, value in settings.items() if name not in kept}
    fixed = {"temperature": TEMPERATURE, "tokens_per_micro_batch": 40, "max_grad_norm": 1e9}
    config = resolve_config({"method": "grpo", **fixed, **kept, "objective_kwargs": kwargs})
    policy = TokenPolicy(model, TEMPERATURE)
    learner = TokenLearner(policy, config, torch.Generator(), AcceleratedProcesses(), pad=0)
    learner._measure_entropy = False
    micro_batches, padding = learner._micro_batches(samples)
    assert len(micro_batches) > 2
    assert padding > 0
    losses, objective = [], learner.updater.objective

    class Recording:
        needs_minibatch = False

        def __call__(self, *inputs):
            elementwise = objective(*inputs)
            losses.append(elementwise.detach())
            return elementwise

    learner.updater.objective = Recording()
    count = sum(len(sample.tokens) for sample in samples)
    assert learner.updater.step(micro_batches, count)
    weighted = [loss * batch.get("weight", 1.0) for loss, batch in zip(losses, micro_batches, strict=True)]
    loss = sum(float(values.sum()) for values in weighted) / count
    return loss, {name: parameter.grad for name, parameter in model.named_parameters()}


def of_trl(model, samples, settings, directory):
    """Loss and gradients of one optimizer step of two accumulated micro-batches in TRL."""
    import trl
    from datasets import Dataset

    arguments = trl.GRPOConfig(
        output_dir=str(directory),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        beta=0.0,
        temperature=TEMPERATURE,
        num_generations=4,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_completion_length=12,
        **settings,
    )
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "1+1="}] * 4),
        processing_class=tiny_tokenizer(),
    )
    # Its training loop sets these before the first step.
    trainer.current_gradient_accumulation_steps = 2
    model.train()
    total = 0.0
    for part in (samples[:4], samples[4:]):
        loss = trainer.compute_loss(model, trl_inputs(part, sum(len(s.tokens) for s in samples)))
        loss.backward()
        total += float(loss.detach())
    return total, {name: parameter.grad for name, parameter in model.named_parameters()}


def trl_inputs(samples, num_items):
    """What TRL's ``_generate_and_score_completions`` returns: prompts padded left, completions padded right."""
    prompts, completions = ([getattr(s, name) for s in samples] for name in ("prompt", "tokens"))

    def padded(rows, side="right", dtype=torch.long):
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side=side).to(dtype)

    return {
        "prompt_ids": padded(prompts, "left"),
        "prompt_mask": padded([torch.ones_like(ids) for ids in prompts], "left"),
        "completion_ids": padded(completions),
        "completion_mask": padded([torch.ones_like(ids) for ids in completions]),
        "old_per_token_logps": padded([s.old_log_probs for s in samples], dtype=torch.float32),
        "advantages": torch.tensor([s.advantage for s in samples]),
        "num_items_in_batch": torch.tensor(num_items),
    }
