"""The script that measures what an update gains on its own samples and on new ones."""

import copy
import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch

from r2vpo.control import R2VPO

SCRIPT = Path(__file__).parents[2] / "scripts" / "update_gain.py"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="scripts are not part of the package")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("update_gain", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_both_estimates_find_the_difference_between_two_policies(script):
    before = R2VPO("Pendulum-v1", log_std_init=0.0).policy
    after = copy.deepcopy(before)
    with torch.no_grad():
        after.network[-1].bias.add_(0.2)
    generator = torch.Generator().manual_seed(0)
    observations = torch.zeros(200_000, 3)
    for policy, forward in ((before, True), (after, False)):
        noise = torch.randn(200_000, 1, generator=generator)
        actions = policy.mean(observations).detach() + noise
        batch = {"observations": observations, "actions": actions}
        # the action is its own advantage: what is gained is how far the mean has moved
        assert script._gain(before, after, batch, actions[:, 0], forward=forward) == pytest.approx(0.2, abs=0.01)


def test_measuring_leaves_training_as_it_is(script):
    settings = {"num_envs": 2, "rollout_steps": 32, "minibatch_size": 32, "epochs": 2, "seed": 3}
    plain, measured = R2VPO("Pendulum-v1", **settings), R2VPO("Pendulum-v1", **settings)
    trace = script.GainTrace()
    plain.learn(256)
    measured.learn(256, callback=trace)
    assert len(trace.lines) == 4
    assert math.isnan(trace.lines[0]["held_out"])  # nothing was updated before the first rollout
    assert all(abs(line["in_sample"]) > 0 for line in trace.lines)
    for one, other in zip(plain.policy.parameters(), measured.policy.parameters(), strict=True):
        assert torch.equal(one, other)
