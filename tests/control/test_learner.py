"""Advantages and value targets of stored rollouts."""

import numpy as np
import pytest
import torch
from small_envs import CountingEnv, IdentityEnv

from r2vpo.advantages import standardised
from r2vpo.control import R2VPO
from r2vpo.control.learner import join_samples
from r2vpo.dual import SMALLEST_SHARE

SMALL = {"num_envs": 1, "rollout_steps": 8, "minibatch_size": 8, "epochs": 1, "normalize_rewards": False}


def estimate(model, rollout, stale=False):
    estimator = model.learner.estimator
    return estimator.estimate(estimator.lay_out([rollout], int(stale)))


@pytest.mark.parametrize("end", ["terminate", "truncate"])
def test_truncation_bootstraps_from_the_true_final_observation(end):
    model = R2VPO(lambda: CountingEnv(3, end), gamma=0.9, gae_lambda=1.0, normalize_observations=False, **SMALL)
    # V(s) is the observation
    model.learner.value_function.forward_standardised = lambda observations: observations[..., 0]
    rollout, finished = model.collector.collect(8)
    # episodes of three steps: observations 0 1 2 | 100 101 102 | 200 201, next 202; finals 3 and 103
    assert rollout["observations"].flatten().tolist() == [0, 1, 2, 100, 101, 102, 200, 201]
    assert rollout["final_observations"].flatten().tolist() == [3, 103]
    assert rollout["last_observations"].flatten().tolist() == [202]
    assert [(f.rollout_step, f.episode_return, f.length) for f in finished] == [(3, 3.0, 3), (6, 3.0, 3)]
    final = (0.0, 0.0) if end == "terminate" else (3.0, 103.0)
    # value targets with gae_lambda 1 are discounted sums of rewards, bootstrapped where an episode was cut
    first = [1 + 0.9 + 0.81 + 0.729 * final[0], 1 + 0.9 + 0.81 * final[0], 1 + 0.9 * final[0]]
    second = [1 + 0.9 + 0.81 + 0.729 * final[1], 1 + 0.9 + 0.81 * final[1], 1 + 0.9 * final[1]]
    third = [1 + 0.9 + 0.81 * 202, 1 + 0.9 * 202]
    samples = estimate(model, rollout)
    assert samples["value_target"].tolist() == pytest.approx(first + second + third, rel=1e-5)
    advantage = samples["value_target"] - rollout["observations"].flatten()
    torch.testing.assert_close(samples["advantage"], advantage)


@pytest.mark.parametrize("end", ["terminate", "truncate"])
def test_reward_sums_are_what_is_left_of_advantages_without_a_value_function(end):
    model = R2VPO(lambda: CountingEnv(3, end), gamma=0.9, gae_lambda=0.5, normalize_observations=False, **SMALL)
    rollout, _ = model.collector.collect(8)  # episodes of three steps, and a reward of 1 for each
    assert estimate(model, rollout)["reward_sum"].tolist() == pytest.approx([1.6525, 1.45, 1] * 2 + [1.45, 1])
    model.learner.value_function.forward_standardised = lambda observations: torch.zeros(observations.shape[:-1])
    samples = estimate(model, rollout)
    assert torch.equal(samples["advantage"], samples["reward_sum"])


def test_rollouts_are_worth_the_same_together_as_each_alone():
    model = R2VPO("Hopper-v5", num_envs=2, rollout_steps=64, minibatch_size=32)
    rollouts = [model.collector.collect(64)[0] for _ in range(3)]
    assert sum(len(rollout["final_observations"]) for rollout in rollouts) > 3
    with torch.no_grad():
        model.learner.policy.network[-1].bias.add_(0.1)
    estimator = model.learner.estimator
    together = estimator.estimate(estimator.lay_out(rollouts, stale=2))
    alone = join_samples([estimate(model, rollout, stale) for rollout, stale in zip(rollouts, (1, 1, 0), strict=True)])
    for name in together:
        torch.testing.assert_close(together[name], alone[name], rtol=1e-5, atol=1e-5)


def test_stale_data_of_an_unchanged_policy_gives_plain_advantages():
    model = R2VPO("Hopper-v5", num_envs=2, rollout_steps=64, minibatch_size=32)
    rollout, _ = model.collector.collect(64)
    fresh, stale = estimate(model, rollout), estimate(model, rollout, stale=True)
    for name in fresh:
        assert torch.equal(fresh[name], stale[name]), name


def test_stale_traces_are_cut_where_the_policy_moved_away():
    model = R2VPO("Hopper-v5", num_envs=2, rollout_steps=64, minibatch_size=32, gae_lambda=1.0)
    rollout, _ = model.collector.collect(64)
    fresh = estimate(model, rollout)
    with torch.no_grad():
        model.learner.policy.network[-1].bias.add_(100.0)  # every stored action is now all but impossible
    stale = estimate(model, rollout, stale=True)
    values = model.learner.value_function(rollout["observations"]).detach().flatten()
    torch.testing.assert_close(stale["value_target"], values, atol=1e-5, rtol=0)  # nothing is learned from it
    assert not torch.allclose(stale["advantage"], fresh["advantage"])


def test_stored_advantages_are_the_paper_s_literal_variant():
    settings = {"num_envs": 2, "rollout_steps": 16, "minibatch_size": 16, "epochs": 1, "buffer_iterations": 4}
    stored = R2VPO("Pendulum-v1", replay_advantages="stored", **settings)
    stored.learn(32 * 3)
    assert {"advantage", "old_log_prob"} <= set(stored.learner.buffer.iterations[0])
    before = [it["advantage"].clone() for it in stored.learner.buffer.iterations]
    stored.learn(32, reset_num_timesteps=False)
    after = [it["advantage"] for it in stored.learner.buffer.iterations]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=False))


def test_joined_advantages_are_standardised_together():
    parts = [{"advantage": torch.randn(50) + 3}, {"advantage": 5 * torch.randn(70)}]
    joined = standardised(join_samples(parts)["advantage"])
    assert len(joined) == 120
    assert joined.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert joined.std().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(("scope", "alike"), [("minibatch", True), ("update", False)])
def test_scope_of_the_standardisation(scope, alike):
    settings = {"buffer_iterations": 4, "utd": 2.0, "anchor": "behaviour", "num_envs": 2, "rollout_steps": 16}
    model = R2VPO(IdentityEnv, advantage_scope=scope, minibatch_size=8, epochs=3, **settings)
    seen = []
    step = model.learner.updater.step
    model.learner.updater.step = lambda batches, count: seen.append(batches[0]["advantage"]) or step(batches, count)
    model.learn(96)
    assert len(seen) == 4 * 3 * (1 + 4 / 3 + 5 / 3)  # the buffer fills from utd 1 to 2 over its first four iterations
    means = torch.stack([advantage.mean() for advantage in seen])
    deviations = torch.stack([advantage.std() for advantage in seen])
    assert bool((means.abs() < 1e-6).all()) is alike
    assert bool(((deviations - 1.0).abs() < 1e-5).all()) is alike


def test_behaviour_log_probs_stay_as_they_were_sampled():
    model = R2VPO("Pendulum-v1", num_envs=2, rollout_steps=16, minibatch_size=16, epochs=2, buffer_iterations=4)
    model.learn(32)
    kept = model.learner.buffer.iterations[0]["old_log_prob"].clone()
    model.learn(64, reset_num_timesteps=False)
    assert torch.equal(model.learner.buffer.iterations[0]["old_log_prob"], kept)
    assert len(model.learner.buffer.sizes) == 3
    flat = {n: model.learner.buffer.iterations[0][n].flatten(0, 1) for n in ("observations", "actions")}
    moved = model.learner.policy.log_prob(flat).detach() - kept.flatten()
    assert np.abs(moved.numpy()).max() > 1e-3


class WorthlessEnv(IdentityEnv):
    """Nothing is ever rewarded."""

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, 0.0, *rest


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        ({}, SMALLEST_SHARE),
        ({"reward_floor": 0.0}, 1.0),
        ({"normalize_advantages": False}, 1.0),
        ({"normalize_rewards": False}, SMALLEST_SHARE),
        ({"replay_advantages": "stored"}, SMALLEST_SHARE),
    ],
)
def test_delta_shrinks_before_the_first_reward(settings, share):
    model = R2VPO(WorthlessEnv, **{"num_envs": 2, "rollout_steps": 16, "minibatch_size": 16, "epochs": 1, **settings})
    rollout, _ = model.collector.collect(16)
    summary = model.learner.update(rollout, 1e-3)
    assert summary["advantage_std"] > summary["reward_std"] == 0.0  # all of it is the value function's noise
    assert summary["delta"] == pytest.approx(share * model.config.delta)


def test_delta_is_whole_where_rewards_vary():
    model = R2VPO(IdentityEnv, num_envs=2, rollout_steps=16, minibatch_size=16, epochs=1)
    summary = model.learner.update(model.collector.collect(16)[0], 1e-3)
    assert summary["reward_std"] > model.config.reward_floor * summary["advantage_std"] > 0
    assert summary["delta"] == model.config.delta


def storages(tree):
    """Bytes of each block of memory that the tensors of the buffer keep alive."""
    return {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for iteration in tree
        for tensor in iteration.values()
        if tensor.numel()
    }


@pytest.mark.parametrize("settings", [{}, {"replay_advantages": "stored"}, {"overlap": True}])
def test_four_iterations_of_64_environments_are_their_own_bytes(settings):
    steps, envs, size, actions = 16, 64, 17, 6
    model = R2VPO(
        "HalfCheetah-v5",
        num_envs=envs,
        buffer_iterations=4,
        rollout_steps=steps,
        epochs=1,
        minibatch_size=256,
        gradient_step="eager",
        stagger=False,  # no episode ends, so there are no final observations
        **settings,
    )
    model.learn(6 * steps * envs)
    buffer = model.learner.buffer
    model.close()
    assert len(buffer.iterations) == 4
    # Observations, actions and log-prob in float32; then either the reward in float64 and two flags, or advantage
    # and value target in float32. Besides, one observation per environment to bootstrap from.
    sample = 4 * (size + actions + 1) + (8 if "replay_advantages" in settings else 8 + 2)
    held = sum(storages(buffer.iterations).values())
    assert held == sum(tensor.nbytes for iteration in buffer.iterations for tensor in iteration.values())
    assert held <= 4 * (steps * envs * sample + envs * size * 4)
    assert held >= 4 * steps * envs * sample
