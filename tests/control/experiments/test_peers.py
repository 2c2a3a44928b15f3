"""Other people's trainers in comparisons: what is missing is named; Tianshou's PPO where it is installed."""

import json
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
from small_envs import IdentityEnv

from r2vpo.control.experiments import peers
from r2vpo.control.experiments.job import Job
from r2vpo.control.experiments.peers import require_installed, train_peer
from r2vpo.control.experiments.tianshou import TianshouPPO
from r2vpo.control.experiments.worker import run_peer
from r2vpo.errors import ConfigError

needs_tianshou = pytest.mark.skipif(find_spec("tianshou") is None, reason="needs tianshou 2")

RECIPE = TianshouPPO()
# An action of the environments below earns its reward at once: without the future, a few updates learn it.
QUICK = {"num_envs": 8, "rollout_size": 256, "hidden_sizes": (16,), "learning_rate": 3e-3}
SMALL = replace(RECIPE, **QUICK, ppo={**RECIPE.ppo, "gamma": 0.0})
OBSERVATIONS = np.random.default_rng(0).uniform(49, 51, (200, 2)).astype(np.float32)


class FarEnv(IdentityEnv):
    """Observations around 50, a thing to be normalised, and a record of the returns of all environments."""

    observation_space = gym.spaces.Box(49.0, 51.0, (2,), np.float32)
    returns: ClassVar[list[float]] = []
    total = 0.0

    def step(self, action):
        assert self.action_space.contains(action)
        observation, reward, terminated, truncated, info = super().step(action)
        self.total += reward
        if truncated:
            self.returns.append(self.total)
        return observation + 50, reward, terminated, truncated, {"surprise": self.steps} if truncated else info

    def reset(self, **kwargs):
        self.total = 0.0
        observation, info = super().reset(**kwargs)
        return observation + 50, info


class UnboundedEnv(FarEnv):
    action_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)


@pytest.mark.parametrize("name", ["tianshou-ppo", "sb3-ppo", "sb3-trpo"])
def test_what_is_missing_is_named_with_its_remedy(name, monkeypatch):
    package = {"tianshou-ppo": "tianshou", "sb3-ppo": "stable-baselines3", "sb3-trpo": "sb3-contrib"}[name]

    def missing(asked):
        assert asked == package
        raise PackageNotFoundError(asked)

    monkeypatch.setattr(peers, "version", missing)
    with pytest.raises(ConfigError, match=f"run pip install {package}$"):
        train_peer(name, IdentityEnv, 0, 100)


def test_a_version_that_it_was_not_written_for_is_refused(monkeypatch):
    monkeypatch.setattr(peers, "version", lambda package: "1.2.0")
    with pytest.raises(ConfigError, match=r"tianshou 1\.2\.0; it needs tianshou>=2\.0,<3"):
        require_installed("tianshou-ppo")
    monkeypatch.setattr(peers, "version", lambda package: "2.0.1")
    require_installed("tianshou-ppo")


def test_an_unknown_peer_is_answered_with_those_there_are():
    with pytest.raises(ConfigError, match=r"one of .*tianshou-ppo"):
        require_installed("tianshou-sac")


@pytest.fixture(scope="module")
def trained():
    """A run, and the returns that its environments counted themselves."""
    pytest.importorskip("tianshou", reason="needs tianshou 2")
    FarEnv.returns.clear()
    reported = []
    run = SMALL.train(FarEnv, seed=3, total_steps=3_000, on_progress=reported.append)
    assert reported
    assert reported[-1] <= 3_072
    return run, list(FarEnv.returns)


def test_tianshou_learns_and_its_returns_are_those_of_the_environments(trained):
    run, counted = trained
    steps, returns = run.episodes.steps, run.episodes.returns
    assert np.mean(returns[-80:]) > 0.5 * np.mean(returns[:80])  # the best return is 0
    assert steps == [80 * (i // 8 + 1) for i in range(len(steps))]  # 8 environments, episodes of 10 steps
    assert steps[-1] == 3_040  # of 3,072, which are whole rollouts
    np.testing.assert_allclose(returns, counted)


def test_tianshou_acts_within_bounds_on_frozen_statistics(trained):
    mean, sample = trained[0].act(True), trained[0].act(False)
    before = mean(OBSERVATIONS)
    sampled = [sample(OBSERVATIONS), sample(OBSERVATIONS * 10)]
    for actions in (before, *sampled):
        assert actions.shape == (200, 2)
        assert np.all(np.abs(actions) <= 1)
    assert np.abs(before - sampled[0]).mean() > 0.05
    np.testing.assert_array_equal(mean(OBSERVATIONS), before)
    assert np.abs(before - (OBSERVATIONS - 50)).mean() < np.abs(OBSERVATIONS - 50).mean()


@needs_tianshou
def test_tianshou_repeats_a_seed():
    runs = [SMALL.train(FarEnv, seed, 512) for seed in (5, 5, 6)]
    returns = [run.episodes.returns for run in runs]
    assert returns[0] == returns[1] != returns[2]
    actions = [run.act(True)(OBSERVATIONS) for run in runs]
    np.testing.assert_array_equal(actions[0], actions[1])
    assert np.any(actions[0] != actions[2])


@needs_tianshou
def test_tianshou_takes_unbounded_actions():
    run = SMALL.train(UnboundedEnv, 0, 256)
    assert np.all(np.isfinite(run.episodes.returns))
    assert np.abs(run.act(False)(OBSERVATIONS)).max() > 1


@needs_tianshou
def test_a_study_line_tells_the_recipe_of_tianshou():
    line = json.loads(json.dumps(run_peer(Job("tianshou-ppo", "Pendulum-v1", 0, 2_048, eval_episodes=2))))
    assert len(line["eval_returns"]) == len(line["eval_returns_stochastic"]) == 2
    assert line["versions"]["tianshou"].startswith("2.")
    config = line["config"]
    assert (config["num_envs"], config["rollout_size"], config["passes"], config["log_std_init"]) == (
        64,
        2048,
        10,
        -0.5,
    )
    assert config["learning_rate_horizon"] == 3_072_000
    assert config["ppo"]["recompute_advantage"]
    assert config["ppo"]["return_scaling"]
