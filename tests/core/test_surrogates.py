"""What the objectives of 2025 and 2026 do on elements whose answer is arithmetic."""

import math

import pytest
import torch

from r2vpo.objectives import make_objective
from r2vpo.surrogates import m2po_bound


def gradient(name, log_prob, old_log_prob, advantage, **settings):
    log_prob, old, a = (torch.as_tensor(x, dtype=torch.float64) for x in (log_prob, old_log_prob, advantage))
    leaf = log_prob.clone().requires_grad_()
    (grad,) = torch.autograd.grad(make_objective(name, **settings)(leaf, old, a).sum(), leaf)
    return -grad


@pytest.mark.parametrize(
    ("now", "before", "advantage", "tv", "kl"),
    [
        (0.70, 0.50, 1.0, 0.0, 0.0),  # 0.20 further, 0.087 nats
        (0.70, 0.50, -1.0, -1.4, -1.4),  # the same, against the advantage
        (0.30, 0.50, -1.0, 0.0, 0.0),
        (0.60, 0.50, 1.0, 1.2, 1.2),  # 0.10, 0.020 nats
        (1e-3, 1e-5, 1.0, 20.0, 20.0),  # a ratio of 100, cut at the cap, and next to no divergence
        (0.80, 0.92, -1.0, -0.8 / 0.92, 0.0),  # 0.12, 0.055 nats
        (1.00, 0.999, 1.0, 1 / 0.999, 1 / 0.999),
        (0.50, 0.50, 1.0, 1.0, 1.0),
    ],
)
def test_dppo_masks_by_divergence_and_not_by_ratio(now, before, advantage, tv, kl):
    inputs = [math.log(now)], [math.log(before)], [advantage]
    assert gradient("dppo", *inputs).item() == pytest.approx(tv, rel=1e-12)
    assert gradient("dppo", *inputs, divergence="kl", delta=0.05).item() == pytest.approx(kl, rel=1e-12)


def test_dppo_lets_a_certain_action_become_certain_in_single_precision():
    log_prob = torch.tensor([-1e-9, 0.0], requires_grad=True)
    loss = make_objective("dppo", divergence="kl")(log_prob, torch.tensor([-1e-4, -1e-3]), torch.ones(2))
    loss.sum().backward()
    assert log_prob.grad.tolist() == pytest.approx([-1.0, -1.0], rel=2e-3)


def test_drpo_is_spo_with_the_epsilon_of_each_probability():
    log_prob, old, advantage = [-0.5, -1.0, -3.0], [-1.0, -0.4, -2.5], [1.0, -2.0, 0.5]
    expected = [
        gradient("spo", [x], [y], [a], eps=0.2 / math.exp(y)).item()
        for x, y, a in zip(log_prob, old, advantage, strict=True)
    ]
    assert gradient("drpo", log_prob, old, advantage, delta=0.2).tolist() == pytest.approx(expected, rel=1e-12)


def test_vespo_is_highest_at_the_sequence_ratio_k_over_lam():
    weights = torch.linspace(0.2, 3.0, 57, dtype=torch.float64)
    half = weights.log()[:, None] / 2  # two tokens share the ratio
    both = gradient("vespo", half.expand(-1, 2), torch.zeros(57, 2), torch.ones(57, 2))
    assert torch.equal(both[:, 0], both[:, 1])
    assert weights[both[:, 0].argmax()].item() == pytest.approx(2 / 3, abs=0.05)


@pytest.mark.parametrize(
    ("squares", "bound"),
    [
        ([0.01, 0.25, 0.04, 0.09], 0.065),  # means 0.01, 0.025, 0.047: two stay
        ([0.03, 0.045, 0.045000001], 0.0375),  # one of the equal ones would fit; both go
        ([0.01, 0.04, 0.05], math.inf),
        ([0.5], 0.25),  # none stays
        ([], math.inf),
    ],
)
def test_m2po_keeps_as_many_as_their_mean_allows(squares, bound):
    steps = torch.tensor(squares, dtype=torch.float64).sqrt()
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0])[: len(steps)]
    # What moved against its advantage, what has none, and what moved by rounding alone is not counted.
    log_ratio = torch.cat([steps * signs, torch.tensor([3.0, -2.0, 5.0, 1e-7, -1e-7])])
    advantage = torch.cat([0.5 * signs, torch.tensor([-1.0, 1.0, 0.0, 2.0, 2.0])])
    assert float(m2po_bound(log_ratio, advantage, tau=0.04)) == pytest.approx(bound, rel=1e-6)
    order = torch.randperm(len(log_ratio), generator=torch.Generator().manual_seed(0))
    assert float(m2po_bound(log_ratio[order], advantage[order], tau=0.04)) == pytest.approx(bound, rel=1e-6)
    weight = gradient("m2po", log_ratio, torch.zeros_like(log_ratio), advantage)
    stays = torch.cat([steps.square() <= bound, torch.ones(5, dtype=torch.bool)])
    torch.testing.assert_close(weight, torch.where(stays, log_ratio.exp() * advantage, 0.0).double())
