"""Diagnostics against exact values: enumerated distributions, and the closed form for Gaussians."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from r2vpo.diagnostics import (
    gaussian_ratio_variance,
    jensen_shannon_generator,
    ratio_diagnostics,
    ratio_variance_by_age,
)

COUNTS = torch.tensor([1, 3, 4, 8])
OLD = COUNTS.double() / 16
"""Enumerated exactly: outcome i is repeated COUNTS[i] times, so a mean over samples is the expectation."""

NEW_DISTRIBUTIONS = [
    [0.25, 0.25, 0.25, 0.25],
    [0.05, 0.2, 0.3, 0.45],
    [0.6, 0.1, 0.1, 0.2],
    [1e-4, 0.2, 0.3, 0.4999],
]


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def diagnose(log_ratio, advantage=None, mask=None, lam=0.0):
    log_ratio = torch.as_tensor(log_ratio)
    advantage = torch.zeros_like(log_ratio) if advantage is None else double(advantage)
    return ratio_diagnostics(log_ratio, advantage, mask, lam)


def diagnose_categorical(new):
    return diagnose((new / OLD).log().repeat_interleave(COUNTS))


def kl(p, q):
    return (p * (p / q).log()).sum().item()


@pytest.mark.parametrize("new", NEW_DISTRIBUTIONS)
def test_estimators_are_exact_on_an_enumerated_distribution(new):
    new = double(new)
    values = diagnose_categorical(new)
    middle = (OLD + new) / 2
    variance = ((new - OLD) ** 2 / OLD).sum().item()
    expected = {
        "ratio_mean": 1.0,
        "ratio_variance": variance,
        "max_ratio": (new / OLD).max().item(),
        "ess": 1 / (1 + variance),
        "kl_k1": kl(OLD, new),
        "kl": kl(OLD, new),
        "js": (kl(OLD, middle) + kl(new, middle)) / 2,
    }
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, rel=1e-12), name


def test_small_shifts_follow_lemma_3_1():
    direction = double([3.0, -1.0, 2.0, -1.0])
    direction = direction - (OLD * direction).sum()
    for size in (1e-2, 1e-3):
        values = diagnose_categorical(OLD * (1 + size * direction))
        assert values["js"] / values["ratio_variance"] == pytest.approx(1 / 8, rel=3 * size)
        assert values["kl"] / values["ratio_variance"] == pytest.approx(1 / 2, rel=3 * size)
        assert values["kl_k1"] / values["ratio_variance"] == pytest.approx(1 / 2, rel=3 * size)


def test_js_generator_and_its_derivatives_at_one():
    u = double([1.0]).requires_grad_()
    value = jensen_shannon_generator(u.log())
    (first,) = torch.autograd.grad(value, u, create_graph=True)
    (second,) = torch.autograd.grad(first, u)
    assert [value.item(), first.item(), second.item()] == pytest.approx([0.0, 0.0, 0.25], abs=1e-15)


@pytest.mark.parametrize("u", [1e-6, 0.3, 0.999, 1.001, 4.0, 1e6])
def test_js_generator_values(u):
    expected = u / 2 * math.log(u) - (u + 1) / 2 * math.log((u + 1) / 2)
    assert jensen_shannon_generator(double(u).log()).item() == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_js_of_a_vanished_probability_is_finite():
    assert diagnose(double([-800.0]))["js"] == pytest.approx(math.log(2) / 2)


def test_js_of_a_probability_of_zero():
    assert diagnose(double([-math.inf]))["js"] == pytest.approx(math.log(2) / 2)


def test_second_moment_is_about_one_and_not_about_the_batch_mean():
    values = diagnose(double([2.0, 2.0, 2.0]).log())  # the variance about the mean of this batch is 0
    assert values["ratio_variance"] == pytest.approx(1.0)
    assert values["ratio_mean"] == pytest.approx(2.0)


def test_nothing_is_clamped_and_single_precision_does_not_overflow():
    values = diagnose(torch.tensor([100.0, -100.0]))
    assert values["max_ratio"] == pytest.approx(math.exp(100))
    assert values["ratio_variance"] == pytest.approx(math.exp(200) / 2)
    assert values["kl_k1"] == 0.0
    assert values["ess"] == pytest.approx(0.5)


def test_sign_flip_counts_samples_whose_gradient_the_penalty_turned():
    # At lam = 1/2 the regularized advantage is A - (rho - 1).
    ratio = double([1.9, 2.1, 2.1, 0.4, 0.6, 5.0, 0.1, 3.0])
    advantage = [1.0, 1.0, 3.0, -0.5, -0.5, 0.0, 1.0, -1.0]
    # turned:    no,  yes, no,  yes,  no,   no,  no,  no
    assert diagnose(ratio.log(), advantage, lam=0.5)["sign_flip"] == pytest.approx(2 / 8)
    assert diagnose(ratio.log(), advantage, lam=0.0)["sign_flip"] == 0.0
    assert diagnose(ratio.log(), advantage, lam=0.05)["sign_flip"] == 0.0
    assert diagnose(ratio.log(), advantage, lam=5.0)["sign_flip"] == pytest.approx(5 / 8)


def test_clip_fraction_is_at_one_fifth_on_both_sides():
    assert diagnose(double([0.79, 0.81, 1.0, 1.19, 1.21]).log())["clip_fraction"] == pytest.approx(2 / 5)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32], ids=str)
def test_masked_samples_are_not_seen(dtype):
    generator = torch.Generator().manual_seed(0)
    log_ratio, advantage = torch.randn(2, 4, 5, dtype=torch.float64, generator=generator)
    mask = torch.rand(4, 5, generator=generator) < 0.6
    kept = diagnose(log_ratio[mask], advantage[mask].tolist(), lam=0.3)
    log_ratio[~mask], advantage[~mask] = math.nan, math.inf
    assert ratio_diagnostics(log_ratio, advantage, mask.to(dtype), lam=0.3) == pytest.approx(kept, rel=1e-14)


def test_by_age():
    ratio = double([1.0, 2.0, 4.0, 0.5, 1.5])
    by_age = ratio_variance_by_age(ratio.log(), torch.tensor([0, 3, 3, 0, 1]))
    assert by_age == pytest.approx({0: 0.125, 1: 0.25, 3: 5.0})
    assert all(type(age) is int for age in by_age)


GAUSSIANS = [
    ([0.0], [1.0], [0.3], [1.0]),
    ([1.0], [0.5], [1.1], [0.55]),
    ([0.0], [2.0], [0.0], [1.5]),
    ([0.0, 1.0, -1.0], [1.0, 0.5, 2.0], [0.1, 1.1, -1.3], [1.05, 0.45, 2.1]),
    ([0.0] * 6, [1.0] * 6, [0.1, -0.1, 0.1, 0.0, 0.2, -0.05], [0.95, 1.05, 1.0, 0.9, 1.1, 1.0]),
]


@pytest.mark.parametrize("parameters", GAUSSIANS)
def test_closed_form_agrees_with_sampling(parameters):
    old_mean, old_std, new_mean, new_std = (np.array(x) for x in parameters)
    noise = np.random.default_rng(0).normal(size=(200_000, len(old_mean)))
    new_noise = (old_mean + old_std * noise - new_mean) / new_std
    log_ratio = ((noise**2 - new_noise**2) / 2 + np.log(old_std / new_std)).sum(axis=1)
    closed_form = gaussian_ratio_variance(*(double(x) for x in parameters)).item()
    error = np.square(np.exp(log_ratio) - 1).std() / math.sqrt(len(log_ratio))

    values = diagnose(log_ratio)
    assert error < 0.05 * closed_form
    assert abs(values["ratio_variance"] - closed_form) < 4 * error
    assert values["ess"] == pytest.approx(1 / (1 + closed_form), abs=4 * error)
    assert values["ratio_mean"] == pytest.approx(1.0, abs=4 * math.sqrt(closed_form / len(log_ratio)))
    old, new = (Independent(Normal(double(m), double(s)), 1) for m, s in (parameters[:2], parameters[2:]))
    exact = kl_divergence(old, new).item()
    assert values["kl_k1"] == pytest.approx(exact, abs=4 * log_ratio.std() / math.sqrt(len(log_ratio)))
    assert values["kl"] == pytest.approx(
        exact, abs=4 * (np.exp(log_ratio) - 1 - log_ratio).std() / math.sqrt(len(log_ratio))
    )


@pytest.mark.parametrize("shift", [1e-4, 0.1, 1.0])
def test_a_mean_shift_alone_is_exp_of_twice_the_kl(shift):
    mean, std = double([0.5, -1.0, 2.0]), double([0.5, 1.0, 2.0])
    new_mean = mean + shift * double([1.0, -2.0, 0.5])
    kl_divergence_in_nats = ((new_mean - mean) ** 2 / (2 * std**2)).sum().item()
    variance = gaussian_ratio_variance(mean, std, new_mean, std).item()
    assert variance == pytest.approx(math.expm1(2 * kl_divergence_in_nats), rel=1e-12, abs=0)


@pytest.mark.parametrize(("new_std", "finite"), [(1.414, True), (math.sqrt(2), False), (3.0, False)])
def test_infinite_from_root_two_times_the_old_deviation(new_std, finite):
    zeros = torch.zeros(4, 2, dtype=torch.float64)
    variance = gaussian_ratio_variance(zeros, double([1.0, 1.0]), zeros, double([0.9, new_std]))
    assert variance.shape == (4,)
    assert (torch.isfinite(variance) if finite else torch.isposinf(variance)).all()


def test_overflowing_ratios_give_no_nan():
    values = diagnose(double([800.0, 0.0]))
    assert values["ess"] == pytest.approx(0.5)
    assert values["js"] == values["max_ratio"] == math.inf


def test_no_samples_are_an_error():
    with pytest.raises(ValueError, match="at least one unmasked sample"):
        ratio_diagnostics(torch.zeros(3), torch.zeros(3), torch.zeros(3, dtype=torch.bool))
