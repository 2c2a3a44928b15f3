"""Replayed rollouts, and lambda and buffer in checkpoints."""

import pytest
import torch

pytest.importorskip("rsl_rl", reason="rsl-rl-lib is not installed")

from rsl_rl_two_processes import build, collect, identity_runner, rollout, settled, updated
from rsl_rl_two_processes import parameters as weights

from r2vpo.control.rsl_rl.replay import fresh_samples, replayed_samples, stored_rollout
from r2vpo.errors import CheckpointError


def test_replayed_samples_keep_the_log_probs_of_the_policy_that_acted():
    algorithm = settled(build(num_mini_batches=2, num_learning_epochs=4, learning_rate=3e-3))
    stored = []
    for seed in range(3):
        collect(algorithm, rollout(seed))
        stored.append(algorithm.storage.actions_log_prob.flatten().clone())
        losses = algorithm.update()
    kept = [iteration["old_log_prob"].flatten() for iteration in algorithm.replay.iterations]
    assert all(torch.equal(x, y) for x, y in zip(stored, kept, strict=True))
    ages = [losses[f"ratio_variance_age_{age}"] for age in range(3)]
    assert 0 < ages[0] < ages[2]


def test_at_the_proximal_anchor_the_ratio_starts_at_one_and_truncated_ratios_weigh_the_advantages():
    algorithm = settled(build(anchor="proximal", buffer_iterations=3, num_mini_batches=2))
    updated(algorithm, range(2), off_policy=0.3)
    collect(algorithm, rollout(2))
    samples = algorithm._samples()
    with torch.no_grad():
        log_prob = algorithm._log_prob(samples["observations"], samples["actions"])
        scored = algorithm._score(samples)
    torch.testing.assert_close(log_prob, samples["old_log_prob"], rtol=0, atol=1e-5)
    stored = torch.cat([iteration["old_log_prob"].flatten() for iteration in algorithm.replay.iterations])
    weight = (log_prob - stored).exp().clamp(max=1.0)
    assert [bool((weight[samples["age"] == age] < 0.9).any()) for age in range(3)] == [False, True, True]
    torch.testing.assert_close(scored.advantage, samples["advantages"] * weight)
    # The penalty holds the policy where it is: without a step to take, there is nothing to pay.
    for anchor, level in (("behaviour", False), ("proximal", True)):
        still = settled(build(anchor=anchor, learning_rate=0.0))
        updated(still, [0], off_policy=0.3)
        assert (updated(still, [1], off_policy=0.0)["ratio_variance"] < 1e-9) is level


@pytest.mark.parametrize("per_minibatch", [True, False])
def test_the_anchors_are_the_same_on_a_fresh_rollout(per_minibatch):
    found = []
    for anchor in ("behaviour", "proximal"):
        algorithm = settled(build(anchor=anchor, normalize_advantage_per_mini_batch=per_minibatch))
        updated(algorithm, [0])
        found.append([weights(algorithm)])
        updated(algorithm, [1])
        found[-1].append(weights(algorithm))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-6)
    assert (found[0][1] - found[1][1]).abs().max() > 1e-4


def test_replayed_samples_of_an_unchanged_policy_are_rsl_rls_own():
    algorithm = settled(build(gamma=0.9, lam=0.8))
    collect(algorithm, rollout(1))
    fresh = fresh_samples(algorithm.storage)
    iteration = stored_rollout(algorithm.storage, algorithm._time_outs, algorithm._last_observations, 0.9)
    torch.testing.assert_close(iteration["rewards"], rollout(1)["rewards"], atol=1e-6, rtol=1e-6)
    assert rollout(1)["time_outs"].any()
    with torch.no_grad():
        again = replayed_samples(
            iteration, algorithm._log_prob, algorithm._value, gamma=0.9, gae_lambda=0.8, trace_cap=1.0
        )
    for name in ("actions", "old_log_prob", "values", "returns", "advantages"):
        torch.testing.assert_close(again[name], fresh[name], atol=1e-5, rtol=1e-5)
    assert torch.equal(again["observations"]["policy"], fresh["observations"]["policy"])


def test_stale_traces_are_weighted_by_hand():
    """Two steps, V = (1, 2), V after them 3, rewards (1, 1), ratios (0.5, 2), gamma 0.5, GAE lambda 1.

    d = (1 + 0.5 * 2 - 1, 1 + 0.5 * 3 - 2) = (1, 0.5); A_1 = 0.5; A_0 = 1 + 0.5 min(1, 2) 0.5 = 1.25;
    targets V + min(1, rho) A = (1 + 0.5 * 1.25, 2 + 0.5).
    """
    zeros = torch.zeros(2, 1)
    iteration = {
        "actions": torch.zeros(2, 1, 1),
        "old_log_prob": zeros,
        "rewards": zeros + 1,
        "done": zeros.bool(),
        "time_outs": zeros.bool(),
        "observations/policy": torch.tensor([[[1.0]], [[2.0]]]),
        "last_observations/policy": torch.tensor([[3.0]]),
    }
    samples = replayed_samples(
        iteration,
        lambda observations, actions: torch.tensor([0.5, 2.0]).log(),
        lambda observations: observations["policy"].squeeze(-1),
        gamma=0.5,
        gae_lambda=1.0,
        trace_cap=1.0,
    )
    torch.testing.assert_close(samples["advantages"], torch.tensor([1.25, 0.5]))
    torch.testing.assert_close(samples["returns"], torch.tensor([1.625, 2.5]))


@pytest.mark.parametrize("save_buffer", [True, False])
def test_a_checkpoint_resumes_with_lambda_and_buffer(tmp_path, save_buffer):
    settings = {"num_mini_batches": 2, "num_learning_epochs": 2, "delta": 1e-3, "save_buffer": save_buffer}
    runner = identity_runner(**settings)
    runner.learn(3)
    runner.save(str(tmp_path / "model.pt"))
    resumed = identity_runner(**settings)
    resumed.load(str(tmp_path / "model.pt"))
    assert resumed.alg.updater.dual.lam == runner.alg.updater.dual.lam != 1.0
    assert len(resumed.alg.replay.sizes) == (3 if save_buffer else 0)
    assert resumed.current_learning_iteration == 2
    data = torch.load(tmp_path / "model.pt", weights_only=True)  # plain tensors: no code runs on loading
    assert ("replay_state_dict" in data) == save_buffer
    if save_buffer:
        for uninterrupted, again in zip(runner.alg.replay.iterations, resumed.alg.replay.iterations, strict=True):
            assert all(torch.equal(values, again[name]) for name, values in uninterrupted.items())


def test_a_resumed_run_takes_the_same_next_update():
    def continued(interrupt):
        algorithm = build(num_mini_batches=2)
        updated(algorithm, range(3))
        if interrupt:
            saved = algorithm.save()
            algorithm = build(num_mini_batches=2)
            algorithm.load(saved, None, True)
        torch.manual_seed(9)
        return updated(algorithm, [7]), weights(algorithm)

    (losses, expected), (again, found) = continued(False), continued(True)
    assert torch.equal(expected, found)
    assert losses == again


def test_settings_win_over_a_checkpoint_and_parts_can_be_left_out():
    first = build(delta=1e-3)
    updated(first, range(2))
    other = build(delta=0.2)
    other.load(first.save(), {"actor": True, "critic": True}, True)
    assert (other.updater.dual.lam, len(other.replay)) == (1.0, 0)
    other.load(first.save(), {"actor": True, "dual": True}, True)
    assert (other.updater.dual.lam, other.updater.dual.delta) == (first.updater.dual.lam, 0.2)
    fixed = build(dual="fixed", dual_lam=0.3)
    fixed.load(first.save(), None, True)
    assert fixed.updater.dual.lam == 0.3


def test_a_checkpoint_of_ppo_loads():
    host = build(class_name="PPO", schedule="fixed")
    updated(host, range(2))
    algorithm = build()
    assert algorithm.load(host.save(), None, True)
    assert torch.equal(weights(algorithm), weights(host))
    assert algorithm.updater.dual.lam == 1.0


def test_a_buffer_of_other_observations_is_refused():
    algorithm = build()
    updated(algorithm, [0])
    saved = algorithm.save()
    rollout_of_another = saved["replay_state_dict"]["iterations"][0]
    rollout_of_another["observations/policy"] = rollout_of_another["observations/policy"][..., :3]
    with pytest.raises(CheckpointError, match="without 'replay'"):
        build().load(saved, None, True)
