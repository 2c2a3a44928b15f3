"""Collecting ahead of the learner: one update of staleness, and nothing else changes."""

import json
import os
import signal
import subprocess
import sys
import time

import gymnasium as gym
import pytest
import torch

from r2vpo.control import R2VPO
from r2vpo.control.overlap import OverlappedCollector
from r2vpo.errors import ConfigError, EnvironmentFailure

SMALL = {"num_envs": 3, "rollout_steps": 40, "minibatch_size": 30, "epochs": 2, "eval_episodes": 0, "overlap": True}
ITERATION = 120


def weights(model):
    return model.learner.optimizer.param_groups[0]["params"][0].detach().clone()


@pytest.fixture
def make(request):
    """Models that are closed at the end, and with them their processes."""
    models = []

    def build(*arguments, **settings):
        models.append(R2VPO(*arguments, **{**SMALL, **settings}))
        return models[-1]

    yield build
    for model in models:
        model.close()


class FallingApart(gym.Wrapper):
    """Raises at a step of its life."""

    def __init__(self, at):
        super().__init__(gym.make("Pendulum-v1"))
        self.left = at

    def step(self, action):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("the pole broke")
        return super().step(action)


@pytest.mark.parametrize("engine", ["gymnasium", "native"])
def test_rollouts_are_scored_by_the_policy_of_one_update_ago(make, monkeypatch, engine):
    model = make("HalfCheetah-v5", engine=engine, algo="on-policy", total_steps=5 * ITERATION)
    learner, earlier, worst = model.learner, [], []
    original = learner.update

    def log_ratio(rollout):
        flat = {name: rollout[name].flatten(0, 1) for name in ("observations", "actions", "old_log_prob")}
        return learner.policy.log_prob(flat) - flat["old_log_prob"]

    def update(rollout, *schedules):
        now = {name: value.clone() for name, value in learner.policy.state_dict().items()}
        stale = log_ratio(rollout).detach()
        learner.policy.load_state_dict(earlier[-1] if earlier else now)
        assert torch.equal(log_ratio(rollout), torch.zeros(ITERATION))
        learner.policy.load_state_dict(now)
        worst.append(float(stale.abs().max()))
        earlier.append(now)
        return original(rollout, *schedules)

    monkeypatch.setattr(learner, "update", update)
    model.learn()
    # The first two rollouts are by the first policy; the first of them is on-policy, the second one update old.
    assert worst[0] == 0.0
    assert len(worst) == 5
    assert all(value > 0.0 for value in worst[1:])


def test_same_seed_same_run_whoever_is_faster(make, monkeypatch):
    first = make("HalfCheetah-v5", seed=4).learn(4 * ITERATION)
    second = make("HalfCheetah-v5", seed=4)
    original = second.learner.update

    def slow(rollout, *schedules):
        time.sleep(0.05)
        return original(rollout, *schedules)

    monkeypatch.setattr(second.learner, "update", slow)
    second.learn(4 * ITERATION)
    assert torch.equal(weights(first), weights(second))
    assert first.episodes.returns == second.episodes.returns
    assert not torch.equal(weights(first), weights(make("HalfCheetah-v5", seed=5).learn(4 * ITERATION)))


def test_overlapped_run_differs_from_the_synchronous_one(make):
    ahead = make("HalfCheetah-v5").learn(3 * ITERATION)
    synchronous = make("HalfCheetah-v5", overlap=False).learn(3 * ITERATION)
    assert not torch.equal(weights(ahead), weights(synchronous))


def test_environments_may_come_from_a_function(make):
    length = 7
    model = make(lambda: gym.make("Pendulum-v1", max_episode_steps=length), stagger=False).learn(2 * ITERATION)
    assert len(model.episodes.returns) == 3 * (80 // length)


def test_environment_registered_by_the_caller_is_known_to_the_process(make):
    gym.register("OverlapPendulum-v0", entry_point="gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=20)
    try:
        model = make("OverlapPendulum-v0", stagger=False).learn(ITERATION)
        assert len(model.episodes.returns) == 6
        assert "collecting ahead" in model.engine
    finally:
        del gym.registry["OverlapPendulum-v0"]


def test_combination_that_learns_little_is_warned_of(make, recwarn):
    make("Pendulum-v1", algo="off-policy", anchor="behaviour")
    make("Pendulum-v1", algo="on-policy")
    make("Pendulum-v1", algo="on-policy", anchor="behaviour", objective="ppo_clip")
    make("Pendulum-v1", algo="on-policy", anchor="behaviour", overlap=False)
    assert not [warning for warning in recwarn if "pulls" in str(warning.message)]
    with pytest.warns(UserWarning, match="then pulls the policy back"):
        make("Pendulum-v1", algo="on-policy", anchor="behaviour")


def test_single_environment_object_is_refused():
    with pytest.raises(ConfigError, match=r"overlap=True.*its id or a function"):
        R2VPO(gym.make("Pendulum-v1"), **{**SMALL, "num_envs": 1})


def test_engine_that_cannot_be_had_is_the_error_of_the_caller(make):
    with pytest.raises(ConfigError, match="Pendulum-v1") as caught:
        make("Pendulum-v1", engine="native").learn(ITERATION)
    assert caught.value.field == "env"


def test_callbacks_run_between_updates_in_this_process(make):
    seen = []

    def callback(local, _global):
        seen.append((os.getpid(), model.num_timesteps))
        return True

    model = make("Pendulum-v1")
    model.learn(2 * ITERATION, callback=callback)
    assert seen == [(os.getpid(), step) for step in range(3, 2 * ITERATION + 1, 3)]


def test_failing_environment_stops_the_run_with_everything_saved(make, tmp_path):
    model = make(lambda: FallingApart(at=100), num_envs=1, rollout_steps=40, run_dir=tmp_path / "run", total_steps=400)
    with pytest.raises(EnvironmentFailure, match=r"the pole broke.*up to step 80 is saved"):
        model.learn()
    model.close()
    resumed = R2VPO.resume(tmp_path / "run", env=lambda: gym.make("Pendulum-v1"))
    assert resumed.num_timesteps == 80
    assert resumed.learn().num_timesteps == 400
    resumed.close()


def test_dead_process_is_an_error_and_not_a_hang(make):
    model = make("Pendulum-v1").learn(ITERATION)
    assert isinstance(model.collector, OverlappedCollector)
    model.collector._process._process.kill()
    with pytest.raises(EnvironmentFailure, match="process that steps the environments has ended"):
        model.learn(10 * ITERATION, reset_num_timesteps=False)


def test_killed_parent_leaves_no_process_and_resumes(tmp_path):
    def command(*more):
        words = [sys.executable, "-m", "r2vpo.cli", "control", "train", "--quiet", *more]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    settings = ["--env", "Pendulum-v1", "--total-steps", "24000", "--num-envs", "3", "--rollout-steps", "40"]
    settings += ["--minibatch-size", "30", "--epochs", "1", "--eval-episodes", "0", "--checkpoint-seconds", "0"]
    run_dir = tmp_path / "run"
    process = command(*settings, "--overlap", "--run-dir", str(run_dir))
    metrics, deadline = run_dir / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") > 10):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    assert len(children) == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    while subprocess.run(["ps", "-o", "stat=", "-p", children[0]], capture_output=True, text=True).stdout.strip("Z\n "):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert command("--resume", str(run_dir)).wait() == 0
    lines = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert lines == list(range(ITERATION, 24001, ITERATION))
