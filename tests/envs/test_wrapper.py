"""A wrapper by name goes wherever the arguments of an environment go."""

import json
import sys

import gymnasium as gym
import numpy as np
import pytest

from r2vpo.control import R2VPO
from r2vpo.control.cli import main
from r2vpo.envs.making import make_env
from r2vpo.errors import ConfigError

MODULE = """
import gymnasium as gym
import numpy as np


class Seen(gym.Env):
    observation_space = gym.spaces.Dict(far=gym.spaces.Box(-1, 1, (2,)), near=gym.spaces.Discrete(3))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._look(), {}

    def step(self, action):
        self.steps += 1
        return self._look(), float(action[0]), False, self.steps >= 8, {}

    def _look(self):
        return {"far": np.full(2, 0.5, np.float32), "near": self.steps % 3 if hasattr(self, "steps") else 0}


class Doubled(gym.RewardWrapper):
    def reward(self, reward):
        return 2.0 * reward


def nothing(env):
    return None


gym.register("Seen-v0", Seen)
"""
QUICK = ("--total-steps", "64", "--num-envs", "2", "--rollout-steps", "16", "--minibatch-size", "16", "--epochs", "1")
FLAT = "gymnasium.wrappers:FlattenObservation"


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "seen_by_tests.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "seen_by_tests"
    gym.registry.pop("Seen-v0", None)
    sys.modules.pop("seen_by_tests", None)


def test_a_dictionary_is_flattened_from_the_command_line_and_the_run_goes_on(module, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["train", "--env", f"{module}:Seen-v0", *QUICK, "--eval-episodes", "1", "--quiet", "--run-dir", str(run)]
    with pytest.raises(ConfigError, match=r"--wrapper gymnasium\.wrappers:FlattenObservation"):
        main(words)
    assert main([*words, "--wrapper", f"{module}:Doubled,{FLAT}"]) == 0
    assert json.loads((run / "config.json").read_text())["env_kwargs"] == {"wrapper": f"{module}:Doubled,{FLAT}"}
    assert main(["train", "--resume", str(run), "--total-steps", "128", "--quiet"]) == 0
    assert main(["evaluate", str(run), "--episodes", "1"]) == 0
    model = R2VPO.load(run)
    assert model.observation_space.shape == (5,)
    assert model.evaluate(1).lengths == [8]


def test_wrappers_are_applied_from_the_inside(module):
    env = make_env(f"{module}:Seen-v0", wrapper=f"{module}:Doubled,{FLAT}")
    assert type(env).__name__ == "FlattenObservation"
    env.reset(seed=0)
    assert env.step(np.array([0.25]))[1] == 0.5


@pytest.mark.parametrize(
    ("wrapper", "said"),
    [
        ("no_such_module:Class", "ModuleNotFoundError"),
        (f"{FLAT[:-1]}", "AttributeError"),
        ("gymnasium.wrappers", "AttributeError"),
        ("gymnasium.wrappers:TimeLimit", "TypeError"),
        ("seen_by_tests:nothing", "returned None"),
    ],
)
def test_what_is_no_wrapper_is_named(module, wrapper, said):
    with pytest.raises(ConfigError, match=f"wrapper=.*module:Class of a wrapper.*{said}"):
        make_env(f"{module}:Seen-v0", wrapper=wrapper)
