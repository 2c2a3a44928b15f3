"""prime-rl's custom loss: value and gradient beside the core's, packed sequences, weights, a foreign interface.

The dataclass and the aggregation are written down here as prime-rl has them (0.8.1.dev67, commit 559b4477, file
src/prime_rl/trainer/rl/loss.py); the test with the library itself runs where it is installed.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from r2vpo.errors import ConfigError, HostVersionError
from r2vpo.llm.prime_rl import FIELDS, SUPPORTED, r2vpo_loss
from r2vpo.objectives import make_objective
from r2vpo.update import Scored, minibatch_loss

LENGTHS = (7, 3, 12, 1)
LAM = 0.3


@dataclass
class LossInputs:
    """Fields, order and defaults of prime-rl's class."""

    trainer_logprobs: torch.Tensor
    inference_logprobs: torch.Tensor
    ref_logprobs: torch.Tensor | None
    advantages: torch.Tensor
    loss_mask: torch.Tensor
    loss_weights: torch.Tensor | None = field(default=None)


def packed(seed=0, dtype=torch.float32):
    """One packed row: [T] tensors over all sequences together, as a micro-batch of prime-rl."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(LENGTHS)
    log_prob = -3.0 * torch.rand(total, generator=generator, dtype=dtype)
    return SimpleNamespace(
        log_prob=log_prob.requires_grad_(),
        old=log_prob.detach() + 0.4 * torch.randn(total, generator=generator, dtype=dtype),
        advantages=torch.randn(total, generator=generator, dtype=dtype),
        mask=torch.rand(total, generator=generator) < 0.7,
        weights=torch.rand(total, generator=generator, dtype=dtype),
    )


def host_loss(row, weights=None, lam=LAM):
    """prime-rl's way to a scalar: split, one call a sequence, sum, divide by the masked tokens of all processes."""
    split = [x.split(LENGTHS) for x in (row.log_prob, row.old, row.advantages, row.mask)]
    streams = [None] * len(LENGTHS) if weights is None else weights.split(LENGTHS)
    outputs = [
        r2vpo_loss(LossInputs(log_prob, old, None, advantage, mask, stream), lam=lam)
        for log_prob, old, advantage, mask, stream in zip(*split, streams, strict=True)
    ]
    return sum(output.loss for output in outputs) / int(row.mask.sum()), outputs


def core_loss(row, weights=None):
    scored = Scored(row.log_prob, row.old, row.advantages, row.mask, weight=weights)
    return minibatch_loss(make_objective("r2vpo", lam=LAM), scored, int(row.mask.sum()))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_and_gradient_are_the_cores(dtype, weighted):
    row = packed(dtype=dtype)
    weights = row.weights if weighted else None
    host, _ = host_loss(row, weights)
    core = core_loss(row, weights)
    torch.testing.assert_close(host, core, rtol=1e-6, atol=1e-6)
    gradients = [torch.autograd.grad(loss, row.log_prob)[0] for loss in (host, core)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)
    assert (gradients[0][row.mask] != 0).all()
    assert (gradients[0][~row.mask] == 0).all()


def test_metrics_are_one_value_a_token():
    """prime-rl concatenates vectors over sequences and takes their mean, so that this mean is E[(rho-1)^2]."""
    row = packed()
    _, outputs = host_loss(row)
    squares = torch.cat([output.metrics["ratio_variance"] for output in outputs])
    ratio = torch.cat([output.metrics["ratio"] for output in outputs])
    expected = (row.log_prob.detach() - row.old).exp()[row.mask]
    torch.testing.assert_close(ratio, expected)
    torch.testing.assert_close(squares.mean(), (expected - 1).square().mean())
    assert not squares.requires_grad


@pytest.mark.parametrize("weighted", [False, True])
def test_what_lies_outside_the_mask_has_no_say(weighted):
    row = packed()
    clean, _ = host_loss(row, row.weights if weighted else None)
    row.old[~row.mask] = torch.nan
    row.advantages[~row.mask] = torch.inf
    row.weights[~row.mask] = torch.nan
    dirty, _ = host_loss(row, row.weights if weighted else None)
    assert torch.equal(clean, dirty)
    assert torch.autograd.grad(dirty, row.log_prob)[0].isfinite().all()


def test_a_sequence_without_masked_tokens_still_gives_a_loss_to_differentiate():
    log_prob = torch.zeros(3, requires_grad=True)
    output = r2vpo_loss(LossInputs(log_prob, torch.zeros(3), None, torch.ones(3), torch.zeros(3, dtype=torch.bool)))
    output.loss.backward()
    assert output.loss.item() == 0
    assert log_prob.grad.tolist() == [0, 0, 0]
    assert output.metrics["ratio"].shape == (0,)


def test_bfloat16_log_probs_are_squared_in_single_precision():
    old = torch.full((4,), -1.0, dtype=torch.bfloat16)
    inputs = LossInputs(old + 0.01, old, None, torch.ones(4), torch.ones(4, dtype=torch.bool))
    assert r2vpo_loss(inputs).loss.dtype == torch.float32


@pytest.mark.parametrize("missing", FIELDS)
def test_another_interface_is_refused_with_the_supported_range(missing):
    names = [name for name in FIELDS if name != missing]
    inputs = make_dataclass("LossInputs", names)(*[torch.zeros(2)] * len(names))
    with pytest.raises(HostVersionError, match=rf"no {missing}; .*prime-rl{SUPPORTED}"):
        r2vpo_loss(inputs)


def test_lambda_out_of_range_is_refused():
    with pytest.raises(ConfigError, match="lam"):
        host_loss(packed(), lam=-0.1)


def test_a_policy_learns_from_the_loss():
    """Four minibatches on each rollout of a bandit with eight actions: the ratio moves, and so does the reward."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.zeros(8, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    rewards = []
    for _ in range(30):
        with torch.no_grad():
            log_probs = logits.log_softmax(0)
            actions = torch.multinomial(log_probs.exp(), 64, replacement=True, generator=generator)
        reward = (actions == 5).float()
        rewards.append(reward.mean().item())
        advantage = reward - reward.mean()
        for part in torch.randperm(64, generator=generator).split(16):
            inputs = LossInputs(
                logits.log_softmax(0)[actions[part]],
                log_probs[actions[part]],
                None,
                advantage[part],
                torch.ones(len(part), dtype=torch.bool),
            )
            optimizer.zero_grad()
            (r2vpo_loss(inputs, lam=0.1).loss / len(part)).backward()
            optimizer.step()
    assert rewards[0] < 0.3
    assert sum(rewards[-3:]) / 3 > 0.8


def test_the_module_imports_neither_prime_rl_nor_transformers():
    code = "import r2vpo.llm.prime_rl, sys; print({'prime_rl', 'transformers'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_the_example_names_this_function():
    import tomllib

    example = Path(__file__).resolve().parents[2] / "examples" / "prime_rl.toml"
    loss = tomllib.loads(example.read_text())["trainer"]["loss"]
    assert loss == {"type": "custom", "import_path": "r2vpo.llm.prime_rl.r2vpo_loss", "kwargs": {"lam": 0.04}}


def test_prime_rl_itself_takes_it():
    loss = pytest.importorskip("prime_rl.trainer.rl.loss", reason="prime-rl is installed from its repository")
    from prime_rl.configs.trainer import CustomLossConfig

    row = packed()
    function = loss.setup_rl_loss_fn(CustomLossConfig(import_path="r2vpo.llm.prime_rl.r2vpo_loss", kwargs={"lam": LAM}))
    sequences = [x.split(LENGTHS) for x in (row.log_prob, row.old, row.advantages, row.mask)]
    host, _ = loss.compute_loss(
        sequences[0], sequences[1], None, *sequences[2:], None, None, None, function, int(row.mask.sum()), 1, 1
    )
    torch.testing.assert_close(host, core_loss(row), rtol=1e-6, atol=1e-6)
