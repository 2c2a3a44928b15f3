"""The proximal anchor: an update whose ratio starts at 1 on data of any age."""

import math

import pytest
import torch
from small_envs import IdentityEnv

from r2vpo.control import R2VPO
from r2vpo.control.learner import equal_parts
from r2vpo.objectives import OBJECTIVES, hyperparameter_defaults, make_objective
from r2vpo.replay import proximal_weights

SMALL = {"num_envs": 2, "rollout_steps": 16, "minibatch_size": 16, "epochs": 2, "buffer_iterations": 3, "gamma": 0.5}


def test_weights_are_truncated_ratios_to_the_policy_that_acted():
    old = torch.tensor([-1.0, -1.0, -1.0, -300.0])
    log_prob = torch.tensor([-1.5, -1.0, -0.5, 300.0])
    assert proximal_weights(log_prob, old).tolist() == pytest.approx([math.exp(-0.5), 1.0, 1.0, 1.0])
    assert proximal_weights(log_prob, old, cap=1.3).tolist() == pytest.approx([math.exp(-0.5), 1.0, 1.3, 1.3])


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_a_weighted_advantage_weighs_the_surrogate_and_leaves_the_penalty(name):
    """J(w A) = w J(A) but for what does not depend on A; the penalty keeps its own size."""
    torch.manual_seed(0)
    log_prob, anchor, advantage = torch.randn(3, 40, dtype=torch.float64) * 0.3
    weight = proximal_weights(anchor, anchor + 0.2 * torch.randn(40, dtype=torch.float64))
    objective = make_objective(name)
    overrides = dict.fromkeys({"lam", "shift", "beta"} & set(hyperparameter_defaults(name)), 0.0)
    expected = weight * objective(log_prob, anchor, advantage, **overrides)
    torch.testing.assert_close(objective(log_prob, anchor, weight * advantage, **overrides), expected)
    if name == "r2vpo":
        penalty = 0.7 * ((log_prob - anchor).exp() - 1).square()
        torch.testing.assert_close(objective(log_prob, anchor, weight * advantage, lam=0.7), expected + penalty)


def test_ratio_starts_at_one_on_data_of_any_age_and_the_surrogate_is_weighed():
    model = R2VPO(IdentityEnv, anchor="proximal", learning_rate=0.02, advantage_scope="update", **SMALL)
    plain = R2VPO(IdentityEnv, anchor="behaviour", learning_rate=0.02, advantage_scope="update", **SMALL)
    rollouts = [model.collector.collect(16)[0] for _ in range(3)]
    for rollout in rollouts:
        rollout["old_log_prob"] = rollout["old_log_prob"] + 0.3 * torch.randn(16, 2)  # as of another policy
    for learner in (model.learner, plain.learner):
        learner.update(rollouts[0], 0.0)
        learner.update(rollouts[1], 0.0)
    pairs = []
    for learner in (model.learner, plain.learner):
        learner.generator.manual_seed(0)
        samples, trajectories, _ = learner._buffered(rollouts[2])
        samples |= learner.estimator.estimate(trajectories) | learner._anchor(samples)
        pairs.append((samples, next(learner._minibatches(samples, 1))))
    (anchored, first), (behaviour, second) = pairs
    with torch.no_grad():
        current = model.policy.log_prob_standardised(first["observations"], first["actions"])
    torch.testing.assert_close(current, first["old_log_prob"], rtol=0, atol=1e-6)
    assert set(first["age"].tolist()) == {0, 1, 2}
    assert "weight" not in first  # the gradient step sees the fields it was compiled for
    weight = (current - second["old_log_prob"]).exp().clamp(max=1.0)
    assert (weight < 0.9).any()
    torch.testing.assert_close(first["advantage"], second["advantage"] * weight)
    assert torch.equal(anchored["value_target"], behaviour["value_target"])


@pytest.mark.parametrize(("anchor", "level"), [("proximal", True), ("behaviour", False)])
def test_age_enters_the_ratio_variance_only_at_the_behaviour_anchor(anchor, level):
    settings = {**SMALL, "rollout_steps": 256, "minibatch_size": 64, "dual": "fixed", "lam": 0.1, "epochs": 1}
    settings |= {"estimates": 1, "log_std_init": 0.0}
    model = R2VPO(IdentityEnv, anchor=anchor, learning_rate=3e-3, lr_schedule="constant", **settings)
    model.learn(5 * 512)
    rollout, _ = model.collector.collect(256)
    by_age = model.learner.update(rollout, 3e-3)["ratio_variance_by_age"]
    assert (by_age[2] < 2.0 * by_age[0]) is level


@pytest.mark.parametrize(("total", "parts", "sizes"), [(10, 1, [10]), (10, 3, [3, 3, 4]), (2, 5, [1, 1]), (0, 2, [])])
def test_steps_are_cut_into_equal_parts(total, parts, sizes):
    assert sorted(equal_parts(total, parts)) == sizes


@pytest.mark.parametrize("algo", ["on-policy", "off-policy"])
def test_estimates_follow_the_value_function_within_an_update(algo):
    model = R2VPO(IdentityEnv, algo=algo, estimates=2, learning_rate=0.01, anchor="proximal", **SMALL)
    learner = model.learner
    seen, original = [], learner.estimator.estimate
    learner.estimator.estimate = lambda trajectories: seen.append(original(trajectories)) or seen[-1]
    summary = learner.update(model.collector.collect(16)[0], 0.01)
    assert summary["gradient_steps"] == 4
    first, second = seen
    assert not torch.equal(first["value_target"], second["value_target"])
    assert torch.equal(first["reward_sum"], second["reward_sum"])


def test_stored_advantages_stay_as_they_are_within_an_update():
    model = R2VPO(IdentityEnv, replay_advantages="stored", estimates=2, learning_rate=0.01, **SMALL)
    learner, seen, original = model.learner, [], model.learner._minibatches
    learner._minibatches = lambda samples, steps: seen.append(samples["advantage"]) or original(samples, steps)
    learner.update(model.collector.collect(16)[0], 0.01)
    first, second = seen
    assert torch.equal(first, second)
