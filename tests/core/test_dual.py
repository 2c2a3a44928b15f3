"""The dual variable: Eq. 12 by hand, and how fast the adaptive rule finds a lambda that meets delta."""

import math

import pytest
import torch

from r2vpo.diagnostics import gaussian_ratio_variance
from r2vpo.dual import ADAPTIVE_BOUNDS, DEFAULT_ETA, SMALLEST_SHARE, DualController, joint_delta, signal_share
from r2vpo.errors import ConfigError


@pytest.mark.parametrize(
    ("delta", "rule", "expected"), [(None, None, "fixed"), (0.1, None, "paper"), (0.1, "fixed", "fixed")]
)
def test_rule_follows_from_delta_unless_named(delta, rule, expected):
    assert DualController(delta=delta, rule=rule).rule == expected


def test_defaults_are_those_of_the_paper():
    dual = DualController(delta=0.1)
    assert (dual.lam, dual.eta) == (0.04, 1e-3)


@pytest.mark.parametrize("delta", [None, 0.1])
@pytest.mark.parametrize("ratio_variance", [0.0, 0.1, 1e9, math.nan, math.inf])
def test_fixed_never_moves(ratio_variance, delta):
    dual = DualController(lam=0.7, delta=delta, eta=0.5, rule="fixed")
    assert [dual.update(ratio_variance) for _ in range(3)] == [0.7] * 3
    assert dual.lam == 0.7


def test_paper_step_is_equation_12():
    dual = DualController(lam=0.04, delta=0.1, eta=0.5)
    assert dual.update(0.3) == pytest.approx(0.14, rel=1e-12)  # 0.04 - 0.5 (0.1 - 0.3)
    assert dual.update(0.06) == pytest.approx(0.12, rel=1e-12)  # 0.14 - 0.5 (0.1 - 0.06)
    assert dual.update(0.1) == pytest.approx(0.12, rel=1e-12)
    assert dual.lam == pytest.approx(0.12, rel=1e-12)


def test_paper_step_stops_at_zero_and_comes_back():
    dual = DualController(lam=0.04, delta=0.1, eta=0.5)
    assert dual.update(0.0) == 0.0  # 0.04 - 0.05 < 0
    assert dual.update(0.0) == 0.0
    assert dual.update(0.2) == pytest.approx(0.05, rel=1e-12)


def test_adaptive_step_by_hand():
    dual = DualController(lam=2.0, delta=0.1, eta=0.5, rule="adaptive")
    assert dual.update(0.15) == pytest.approx(2.0 * math.exp(0.25), rel=1e-12)
    dual.lam = 2.0
    assert dual.update(0.0) == pytest.approx(2.0 * math.exp(-0.5), rel=1e-12)
    dual.lam = 2.0
    assert dual.update(1e6) == pytest.approx(2.0 * math.exp(1.5), rel=1e-12)  # the error counts as at most 3


@pytest.mark.parametrize(("ratio_variance", "bound"), [(0.0, ADAPTIVE_BOUNDS[0]), (1e6, ADAPTIVE_BOUNDS[1])])
def test_adaptive_stays_within_its_bounds(ratio_variance, bound):
    dual = DualController(lam=1.0, delta=0.1, rule="adaptive")
    for _ in range(1000):
        dual.update(ratio_variance)
    assert dual.lam == bound


@pytest.mark.parametrize("lam", [0.01, 0.04, 1.0, 20.0])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("needed", [0.01, 0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("delta", [0.01, 0.1])
def test_adaptive_meets_delta_within_five_rollouts(lam, power, needed, delta):
    """On a plant whose ratio variance is c / lam^power, with c from 1e-6 to 1e3."""
    scale = delta * needed**power
    dual = DualController(lam=lam, delta=delta, rule="adaptive")
    means = []
    for _ in range(10):
        variances = []
        for _ in range(80):
            variances.append(scale / dual.lam**power)
            dual.update(variances[-1])
        means.append(sum(variances) / len(variances))
    assert all(abs(mean / delta - 1) < 0.2 for mean in means[4:])


@pytest.mark.parametrize("rule", ["paper", "adaptive"])
@pytest.mark.parametrize("ratio_variance", [math.nan, math.inf])
def test_an_overflowing_ratio_never_loosens_or_breaks_lambda(rule, ratio_variance):
    dual = DualController(lam=1.0, delta=0.1, rule=rule)
    for _ in range(3):
        assert 1.0 <= dual.update(ratio_variance) < 2.0
    after_overflow = dual.lam
    assert dual.update(0.0) < after_overflow


@pytest.mark.parametrize("ratio_variance", [math.nan, math.inf])
def test_adaptive_takes_an_overflow_for_the_largest_error(ratio_variance):
    overflowing, large = (DualController(lam=1.0, delta=0.1, rule="adaptive") for _ in range(2))
    assert overflowing.update(ratio_variance) == large.update(1e6)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"lam": -0.1}, "lam"),
        ({"lam": math.nan}, "lam"),
        ({"lam": math.inf}, "lam"),
        ({"lam": 0.0, "delta": 0.1, "rule": "adaptive"}, "lam"),
        ({"delta": 0.0}, "delta"),
        ({"delta": -0.1}, "delta"),
        ({"delta": math.inf}, "delta"),
        ({"delta": 0.0, "rule": "fixed"}, "delta"),
        ({"delta": 0.0, "rule": "adaptive"}, "delta"),
        ({"delta": None, "rule": "adaptive"}, "delta"),
        ({"delta": None, "rule": "paper"}, "delta"),
        ({"delta": 0.1, "eta": 0.0}, "eta"),
        ({"delta": 0.1, "eta": -1.0}, "eta"),
        ({"delta": 0.1, "eta": math.inf}, "eta"),
    ],
)
def test_values_outside_their_range(arguments, field):
    with pytest.raises(ConfigError) as caught:
        DualController(**arguments)
    assert caught.value.field == field
    assert f"{field}={arguments[field]!r}" in str(caught.value)
    assert "above 0" in str(caught.value) or "at least 0" in str(caught.value)


def test_unknown_rule_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"'newton'.*fixed, paper, adaptive"):
        DualController(rule="newton")


@pytest.mark.parametrize("rule", DEFAULT_ETA)
def test_state_survives_a_round_trip(rule):
    original = DualController(lam=0.5, delta=0.1, eta=0.2, rule=rule)
    original.update(0.3)
    restored = DualController(lam=9.0, delta=3.0)
    restored.load_state_dict(original.state_dict())
    assert restored.state_dict() == original.state_dict()
    assert [restored.update(v) for v in (0.3, 0.0, 0.05)] == [original.update(v) for v in (0.3, 0.0, 0.05)]


@pytest.mark.parametrize("dimensions", [1, 3, 17])
def test_joint_delta_is_the_variance_when_every_dimension_moves_alike(dimensions):
    def variance(size):
        old_mean, old_std = torch.zeros(size, dtype=torch.float64), torch.ones(size, dtype=torch.float64)
        return float(gaussian_ratio_variance(old_mean, old_std, old_mean + 0.1, 1.02 * old_std))

    assert joint_delta(variance(1), dimensions) == pytest.approx(variance(dimensions), rel=1e-9)


def test_signal_share_falls_with_the_square_and_stays_between_its_bounds():
    assert signal_share(0.1, 0.1, floor=1.0) == signal_share(7.0, 0.1, floor=1.0) == 1.0
    assert signal_share(0.05, 0.1, floor=1.0) == signal_share(0.1, 0.1, floor=2.0) == pytest.approx(0.25)
    assert signal_share(0.0, 0.1, floor=1.0) == signal_share(0.0, 0.0, floor=1.0) == SMALLEST_SHARE
    assert signal_share(0.0, 0.1, floor=0.0) == 1.0


def test_signal_share_does_not_depend_on_the_unit_of_rewards():
    assert signal_share(5e-9, 1e-8, floor=1.0) == pytest.approx(signal_share(5e4, 1e5, floor=1.0)) == 0.25


@pytest.mark.parametrize("rule", ["paper", "adaptive"])
def test_share_moves_the_target_and_nothing_else(rule):
    shared, plain = DualController(0.5, 0.2, rule=rule), DualController(0.5, 0.05, rule=rule)
    shared.share = 0.25
    assert shared.target == pytest.approx(0.05)
    assert shared.update(0.08) == pytest.approx(plain.update(0.08), rel=1e-12)
    assert shared.delta == 0.2


def test_there_is_no_target_where_lambda_is_fixed():
    assert DualController(0.04).target is None
    assert DualController(0.04, 0.1, rule="fixed").target is None
