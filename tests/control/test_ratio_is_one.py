"""Rule 1 of the design: before the first gradient step on fresh data the ratio is exactly 1."""

import pytest
import torch

from r2vpo.control import R2VPO

SMALL = {"num_envs": 4, "rollout_steps": 32, "minibatch_size": 32, "epochs": 2}


@pytest.mark.parametrize("algo", ["on-policy", "off-policy"])
@pytest.mark.parametrize(
    ("env", "engine"),
    [("HalfCheetah-v5", "native"), ("HalfCheetah-v5", "gymnasium"), ("Hopper-v5", "native"), ("Pendulum-v1", "auto")],
)
def test_first_minibatch_of_every_rollout_has_ratio_one(env, engine, algo, monkeypatch):
    model = R2VPO(env, engine=engine, algo=algo, total_steps=128 * 5, **SMALL)
    learner = model.learner
    first_log_ratios = []
    original = learner.update

    def update(rollout, *schedules):
        flat = {name: rollout[name].flatten(0, 1) for name in ("observations", "actions", "old_log_prob")}
        for index in torch.randperm(128).split(32):
            minibatch = {name: values[index] for name, values in flat.items()}
            first_log_ratios.append(learner.policy.log_prob(minibatch) - minibatch["old_log_prob"])
        return original(rollout, *schedules)

    monkeypatch.setattr(learner, "update", update)
    model.learn()
    ratios = torch.cat(first_log_ratios).exp()
    assert len(ratios) == 128 * 5
    assert torch.equal(ratios, torch.ones_like(ratios))
    assert model.learner.policy.normalizer.count == 128 * 5


def test_statistics_moving_before_the_update_would_be_seen():
    """The same check fails when the normaliser moves between collection and update."""
    model = R2VPO("HalfCheetah-v5", **SMALL)
    rollout, _ = model.collector.collect(32)
    model.learner.policy.normalizer.update(rollout["observations"].flatten(0, 1))
    flat = {name: rollout[name].flatten(0, 1) for name in ("observations", "actions")}
    log_ratio = model.learner.policy.log_prob(flat) - rollout["old_log_prob"].flatten()
    assert not torch.equal(log_ratio, torch.zeros_like(log_ratio))


def test_scored_action_is_the_one_before_clipping():
    model = R2VPO("HalfCheetah-v5", log_std_init=0.5, **SMALL)
    rollout, _ = model.collector.collect(32)
    assert (rollout["actions"].abs() > 1.0).any()
