import numpy as np
import pytest
import torch

from r2vpo.advantages import (
    ADVANTAGE_EPS,
    generalized_advantages,
    group_relative_advantages,
    offpolicy_estimates,
    standardised,
    successor_values,
    truncated_importance_weights,
    value_targets,
)

# Two environments (columns), four steps (rows). Environment 0 is truncated at t = 2, its true final
# observation is worth 8; environment 1 terminates at t = 1, and the 100 of its terminal observation must not
# count. Both go on, and the states after the last step are worth 2 and 10.
REWARDS = np.array([[0.0, 1.0], [-1.0, 2.0], [2.0, 3.0], [1.0, 4.0]])
VALUES = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
LAST_VALUES = np.array([2.0, 10.0])
TERMINATED = np.array([[False, False], [False, True], [False, False], [False, False]])
DONE = np.array([[False, False], [False, True], [True, False], [False, False]])
FINAL_VALUES = np.array([100.0, 8.0])
NEXT_VALUES = np.array([[3.0, 4.0], [5.0, 100.0], [8.0, 8.0], [2.0, 10.0]])

# One-step errors at gamma = 1/2, d = r + V(s')/2 - V(s):
#   environment 0: 0 + 3/2 - 1 = 0.5,  -1 + 5/2 - 3 = -1.5,  2 + 8/2 - 5 = 1,  1 + 2/2 - 7 = -5
#   environment 1: 1 + 4/2 - 2 = 1,     2 + 0   - 4 = -2,    3 + 8/2 - 6 = 1,  4 + 10/2 - 8 = 1
ERRORS = np.array([[0.5, 1.0], [-1.5, -2.0], [1.0, 1.0], [-5.0, 1.0]])

# A_t = d_t + A_{t+1} / 4 at gae_lambda = 1/2, cut after t = 2 in environment 0 and t = 1 in environment 1:
#   environment 0: 0.5 - 1.25/4 = 0.1875,  -1.5 + 1/4 = -1.25,  1,              -5
#   environment 1: 1 - 2/4 = 0.5,          -2,                  1 + 1/4 = 1.25,  1
ADVANTAGES = np.array([[0.1875, 0.5], [-1.25, -2.0], [1.0, 1.25], [-5.0, 1.0]])


def gae(trace_weights=None, gamma=0.5, gae_lambda=0.5):
    return generalized_advantages(
        REWARDS,
        VALUES,
        NEXT_VALUES,
        TERMINATED,
        DONE,
        gamma=gamma,
        gae_lambda=gae_lambda,
        trace_weights=trace_weights,
    )


def test_successors_are_the_states_that_really_followed():
    values = VALUES.copy()
    np.testing.assert_array_equal(successor_values(values, LAST_VALUES, DONE, FINAL_VALUES), NEXT_VALUES)
    np.testing.assert_array_equal(values, VALUES)


def test_gae_by_hand():
    np.testing.assert_allclose(gae(), ADVANTAGES, rtol=1e-14)


def test_lambda_zero_is_the_one_step_error():
    np.testing.assert_allclose(gae(gae_lambda=0.0), ERRORS, rtol=1e-14)


def test_gamma_and_lambda_one_is_the_return_minus_the_value():
    # Environment 0: 0 - 1 + 2 + 8 = 9 from t = 0, then 1 + 2 = 3.
    # Environment 1: 1 + 2 = 3 from t = 0, then 3 + 4 + 10 = 17.
    returns = np.array([[9.0, 3.0], [9.0, 2.0], [10.0, 17.0], [3.0, 14.0]])
    np.testing.assert_allclose(gae(gamma=1.0, gae_lambda=1.0), returns - VALUES, rtol=1e-14)


def test_single_precision_stays_single_precision():
    arrays = [x.astype(np.float32) for x in (REWARDS, VALUES, NEXT_VALUES)]
    advantages = generalized_advantages(*arrays, TERMINATED, DONE, gamma=0.5, gae_lambda=0.5)
    assert advantages.dtype == np.float32
    np.testing.assert_array_equal(advantages, ADVANTAGES.astype(np.float32))


def test_trace_weights_of_one_are_plain_gae():
    np.testing.assert_array_equal(gae(np.ones_like(REWARDS)), gae())


def test_trace_weights_of_zero_are_the_one_step_error():
    np.testing.assert_allclose(gae(np.zeros_like(REWARDS)), ERRORS, rtol=1e-14)


@pytest.mark.parametrize("trace_decay", [1.0, 0.9])
def test_trace_weights_agree_with_v_trace_summed_directly(trace_decay):
    # V-trace (arXiv 1802.01561, Eq. 1): v_s = V(s) + sum_t gamma^(t-s) (c_s ... c_{t-1}) rho_t d_t with
    # rho = min(1, ratio) and c = decay rho. Our A leaves out the ratio of its own action, so that
    # v_s - V(s) = rho_s A_s.
    rng = np.random.default_rng(0)
    steps, envs, gamma = 12, 3, 0.97
    rewards, values, following = rng.normal(size=(3, steps, envs))
    done = rng.random((steps, envs)) < 0.25
    terminated = done & (rng.random((steps, envs)) < 0.5)
    assert 0 < terminated.sum() < done.sum()
    rho = np.minimum(1.0, np.exp(rng.normal(size=(steps, envs))))
    errors = rewards + gamma * (1 - terminated) * following - values

    advantages = generalized_advantages(
        rewards, values, following, terminated, done, gamma=gamma, gae_lambda=trace_decay, trace_weights=rho
    )
    for n in range(envs):
        for s in range(steps):
            correction, product = 0.0, 1.0
            for t in range(s, steps):
                correction += gamma ** (t - s) * product * rho[t, n] * errors[t, n]
                product *= trace_decay * rho[t, n]
                if done[t, n]:
                    break
            assert rho[s, n] * advantages[s, n] == pytest.approx(correction, rel=1e-12, abs=1e-14)


def test_value_targets_weight_the_correction_and_never_above_one():
    weights = np.array([0.5, 1.0, 1.7])
    targets = value_targets(np.array([1.0, 2.0, 3.0]), np.array([4.0, 4.0, -4.0]), weights)
    np.testing.assert_array_equal(targets, [3.0, 6.0, -1.0])


@pytest.mark.parametrize("cap", [1.0, 2.0])
def test_truncated_importance_weights(cap):
    log_ratio = np.array([-np.inf, np.log(0.5), 0.0, np.log(4.0), 1e4])
    weights = truncated_importance_weights(log_ratio, cap)
    np.testing.assert_allclose(weights, [0.0, 0.5, 1.0, cap, cap], rtol=1e-14)


def estimates(log_ratio, cap=1.0):
    arrays = (REWARDS, VALUES, LAST_VALUES, FINAL_VALUES, TERMINATED, DONE, log_ratio)
    return offpolicy_estimates(*arrays, gamma=0.5, gae_lambda=0.5, cap=cap)


def test_estimates_of_the_policy_that_acted_are_gae_and_its_return():
    found = estimates(np.zeros_like(REWARDS))
    np.testing.assert_allclose(found.advantages, ADVANTAGES, rtol=1e-14)
    np.testing.assert_allclose(found.value_targets, VALUES + ADVANTAGES, rtol=1e-14)


def test_estimates_of_another_policy_by_hand():
    # All actions are four times as likely as they were, which counts as once, but that of t = 1 in environment 0: half.
    # Only the trace from t = 0 to t = 1 is cut, 0.5 - 1.25/4/2 = 0.34375, and the step of the value at t = 1 is halved.
    ratio = np.full_like(REWARDS, 4.0)
    ratio[1, 0] = 0.5
    found = estimates(np.log(ratio))
    advantages = ADVANTAGES.copy()
    advantages[0, 0] = 0.34375
    targets = VALUES + advantages
    targets[1, 0] = 3.0 - 1.25 / 2
    np.testing.assert_allclose(found.trace_weights, np.minimum(ratio, 1.0), rtol=1e-14)
    np.testing.assert_allclose(found.advantages, advantages, rtol=1e-14)
    np.testing.assert_allclose(found.value_targets, targets, rtol=1e-14)
    # A cap of 2 lets traces grow: 1 - 2 * 2/4 = 0 in environment 1. The step of the value stays at most whole.
    found = estimates(np.log(ratio), cap=2.0)
    assert found.advantages[0, 1] == pytest.approx(0.0, abs=1e-14)
    assert found.value_targets[0, 1] == pytest.approx(2.0)


def test_standardised_values_have_mean_0_and_deviation_1_along_the_last_axis():
    values = torch.tensor([[1.0, 2.0, 3.0], [10.0, 10.0, 10.0]])
    torch.testing.assert_close(standardised(values), torch.tensor([[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    tiny = ADVANTAGE_EPS * torch.tensor([-1.0, 0.0, 1.0])
    torch.testing.assert_close(standardised(tiny), torch.tensor([-0.5, 0.0, 0.5]))


def test_group_relative_standardises_within_each_group():
    rewards = np.concatenate([np.random.default_rng(0).normal(size=8), [1.0, 0.0, 0.0, 0.0] * 2])
    advantages = group_relative_advantages(rewards, 8).reshape(2, 8)
    np.testing.assert_allclose(advantages.mean(axis=1), 0.0, atol=1e-14)
    np.testing.assert_allclose(advantages.std(axis=1), 1.0, rtol=1e-5)
    # Mean 1/4, population standard deviation sqrt(3)/4.
    np.testing.assert_allclose(advantages[1, :2], [3**0.5, -1 / 3**0.5], rtol=1e-5)


def test_group_relative_eps_is_added_to_the_standard_deviation():
    advantages = group_relative_advantages(np.array([3.0, 1.0]), 2, eps=1.0)
    np.testing.assert_allclose(advantages, [0.5, -0.5], rtol=1e-14)


@pytest.mark.parametrize("group_size", [3, 7, 8])
@pytest.mark.parametrize("reward", [-1.0, 0.0, 1.0, 0.1, 1.8])
def test_a_group_of_equal_rewards_gets_zero(reward, group_size):
    advantages = group_relative_advantages(np.full(group_size, reward), group_size)
    np.testing.assert_allclose(advantages, 0.0, atol=1e-8)


def test_a_group_of_equal_single_precision_rewards_gets_zero():
    rewards = np.full(7, 1.8, np.float32)
    np.testing.assert_allclose(group_relative_advantages(rewards, 7), 0.0, atol=1e-8)


def test_missing_rewards_take_no_part():
    rewards = np.array([1.0, np.nan, 3.0, 5.0, 2.0, np.inf, np.nan, np.nan])
    valid = np.isfinite(rewards)
    advantages = group_relative_advantages(rewards, 4, valid)
    kept = np.array([1.0, 3.0, 5.0])
    np.testing.assert_allclose(advantages[[0, 2, 3]], (kept - 3.0) / (kept.std() + 1e-6), rtol=1e-14)
    np.testing.assert_array_equal(advantages[[1, 4, 5, 6, 7]], 0.0)


def test_groups_without_valid_rewards_get_zero():
    rewards = np.full(4, np.nan)
    np.testing.assert_array_equal(group_relative_advantages(rewards, 2, np.zeros(4, bool)), np.zeros(4))


@pytest.mark.parametrize("group_size", [0, -2, 3])
def test_rewards_that_do_not_divide_into_groups(group_size):
    with pytest.raises(ValueError, match=f"8 rewards do not divide into groups of {group_size}"):
        group_relative_advantages(np.zeros(8), group_size)
