"""Running statistics of observations and returns."""

import numpy as np
import pytest
import torch

from r2vpo.control.normalization import ObservationNormalizer, RewardScaler


def test_observation_statistics_equal_those_of_all_data():
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(n, 5, generator=generator) * (i + 1) + 3 * i for i, n in enumerate((7, 100, 33))]
    normalizer = ObservationNormalizer(5)
    for batch in batches:
        normalizer.update(batch)
    data = torch.cat(batches).double()
    torch.testing.assert_close(normalizer.mean, data.mean(0))
    torch.testing.assert_close(normalizer.variance, data.var(0, unbiased=False))
    standardised = normalizer(torch.cat(batches))
    torch.testing.assert_close(standardised.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    assert normalizer(torch.full((1, 5), 1e9)).tolist() == [[10.0] * 5]


def test_only_what_begins_far_away_is_counted_from_there():
    normalizer = ObservationNormalizer(4)
    first = np.array([[1023.0, 1.7e9, -2e3, 3e38], [1023.0, 1.7e9 + 2, -2e3, 3e38]])
    normalizer.begin(first)
    assert normalizer.origin.tolist() == [0.0, 1.7e9 + 1, -2e3, 0.0]
    later = np.array([[1.0, 1.7e9 + 1.25, 0.5, -3e38]])
    relative = normalizer.relative(later)
    assert relative.dtype == np.float32
    assert relative.tolist() == [[1.0, 0.25, 2000.5, float(np.float32(-3e38))]]
    normalizer.begin(later)
    normalizer.update(torch.from_numpy(normalizer.relative(first)))
    assert normalizer.mean.tolist() == [1023.0, 0.0, 0.0, float(np.float32(3e38))]
    assert normalizer.origin.tolist() == [0.0, 1.7e9 + 1, -2e3, 0.0]
    old = ObservationNormalizer(4)
    old.load_state_dict({name: value for name, value in normalizer.state_dict().items() if name != "origin"})
    assert old.origin.tolist() == [0.0] * 4


def test_reward_scale_is_the_deviation_of_discounted_returns():
    scaler = RewardScaler(2, gamma=0.5)
    rewards = np.array([[1.0, 2.0], [1.0, 0.0], [3.0, 4.0]])
    done = np.array([[False, True], [False, False], [False, False]])
    scaler.update(rewards, done)
    # environment 0: 1, 1.5, 3.75; environment 1: 2, then anew after its end: 0, 4
    returns = np.array([1.0, 1.5, 3.75, 2.0, 0.0, 4.0])
    assert scaler(np.array([2.0]))[0] == pytest.approx(2.0 / returns.std())
    scaler.update(rewards[:1], done[:1])
    returns = np.append(returns, [3.75 / 2 + 1, 4.0 / 2 + 2])
    assert scaler(np.array([2.0]))[0] == pytest.approx(2.0 / returns.std())


@pytest.mark.parametrize("kind", ["observations", "rewards"])
def test_normalisation_can_be_switched_off(kind):
    if kind == "observations":
        normalizer = ObservationNormalizer(2, enabled=False)
        normalizer.update(torch.randn(10, 2))
        assert torch.equal(normalizer(torch.full((1, 2), 50.0)), torch.full((1, 2), 50.0))
    else:
        scaler = RewardScaler(1, 0.9, enabled=False)
        scaler.update(np.ones((5, 1)), np.zeros((5, 1), bool))
        assert scaler(np.array([50.0]))[0] == 50.0
