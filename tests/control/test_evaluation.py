"""One evaluation protocol for all, and the curve of the training episodes."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from small_envs import IdentityEnv

from r2vpo.control import R2VPO, BaseCallback
from r2vpo.control.evaluation import EVALUATION_SEED, EpisodeLog, evaluate_policy
from r2vpo.errors import ConfigError, EnvironmentFailure

SMALL = {"num_envs": 4, "rollout_steps": 12, "minibatch_size": 16, "epochs": 1, "eval_episodes": 3}


def test_curve_windows_by_hand():
    log = EpisodeLog()
    for step, value in ((30, 1.0), (50, 3.0), (51, 5.0), (90, 7.0)):
        log.add(step, value)
    steps, returns = log.curve(total_steps=100, points=4)
    assert steps == [25, 50, 75, 100]
    assert returns == [None, 2.0, 5.0, 7.0]
    log.add(104, 9.0)  # the last rollout may end beyond the budget
    assert log.curve(100, 4)[1][-1] == 8.0
    assert EpisodeLog().curve(100, 2)[1] == [None, None]


def test_every_evaluation_environment_contributes_its_first_episode():
    result = evaluate_policy(lambda observations: np.zeros((len(observations), 1)), "Pendulum-v1", 4, seed=0)
    assert result.lengths == [200] * 4
    assert len(set(result.returns)) == 4
    again = evaluate_policy(lambda observations: np.zeros((len(observations), 1)), "Pendulum-v1", 4, seed=0)
    assert again == result


class FewAtATime(IdentityEnv):
    """A simulator of which ``allowed`` may be open."""

    open, most, allowed = 0, 0, 4

    def __init__(self):
        super().__init__()
        if type(self).open == self.allowed:
            raise RuntimeError("no more licenses")
        type(self).open += 1
        type(self).most = max(type(self).most, type(self).open)

    def close(self):
        type(self).open -= 1


@pytest.fixture
def few():
    return type("Few", (FewAtATime,), {})


def still(observations):
    return np.zeros((len(observations), 2))


def test_as_many_environments_as_there_can_be_play_the_same_episodes(few):
    whole = evaluate_policy(still, IdentityEnv, 10, seed=7)
    with pytest.warns(UserWarning, match=r"evaluating in 4 environments.*no more licenses"):
        assert evaluate_policy(still, few, 10, seed=7) == whole
    assert (few.open, few.most) == (0, 4)
    shared = IdentityEnv()
    assert evaluate_policy(still, lambda: shared, 10, seed=7) == whole
    assert evaluate_policy(still, [IdentityEnv(), IdentityEnv()], 10, seed=7) == whole


def test_where_training_has_all_environments_it_lends_them(few, tmp_path):
    def train(make, callback=None):
        model = R2VPO(make, run_dir=tmp_path / make.__name__, total_steps=6 * 48, **SMALL)
        return model.learn(callback=callback)

    class Look(BaseCallback):
        def _on_rollout_start(self):
            self.model.evaluate(3)

    plain = train(IdentityEnv)
    with pytest.warns(UserWarning, match="no more licenses"):
        lent = train(few, Look())
    assert few.most == 4
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("IdentityEnv", "Few")]
    assert summaries[0]["eval_return_mean"] == summaries[1]["eval_return_mean"]
    assert "missing" not in summaries[1]
    for one, other in zip(plain.policy.parameters(), lent.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_object_is_evaluated_itself_and_training_goes_on_from_where_it_was():
    settings = {"num_envs": 1, "rollout_steps": 64, "minibatch_size": 32, "epochs": 2}
    evaluated, plain = (R2VPO(gym.make("Pendulum-v1"), **settings) for _ in range(2))
    for model in (evaluated, plain):
        model._training.source.unwrapped.g = 1.0
        model.learn(256)
    light, again = evaluated.evaluate(2), evaluated.evaluate(2)
    assert light == again
    evaluated._training.source.unwrapped.g = 10.0
    assert evaluated.evaluate(2) != light
    evaluated._training.source.unwrapped.g = 1.0
    for model in (evaluated, plain):
        model.learn(256, reset_num_timesteps=False)
    for one, other in zip(plain.policy.parameters(), evaluated.policy.parameters(), strict=True):
        assert torch.equal(one, other)


class Unregistered(gym.Wrapper):
    """A user's wrapper, which Gymnasium cannot make again."""


def test_an_object_without_a_spec_is_evaluated_at_the_end(tmp_path):
    for name, env in (("plain", IdentityEnv()), ("wrapped", Unregistered(gym.make("Pendulum-v1")))):
        R2VPO(env, run_dir=tmp_path / name, rollout_steps=48, minibatch_size=16, eval_episodes=2).learn(48)
        assert "eval_return_mean" in json.loads((tmp_path / name / "summary.json").read_text())


class Endless(IdentityEnv):
    def step(self, action):
        self.steps = 0
        return super().step(action)


def test_episodes_that_never_end_are_cut_with_a_notice(tmp_path, monkeypatch):
    with pytest.warns(UserWarning, match="evaluation cut 2 of 2 episodes that did not end within 30 steps"):
        result = evaluate_policy(still, Endless, 2, seed=0, max_episode_steps=30)
    assert (result.lengths, result.cut) == ([30, 30], 2)
    monkeypatch.setattr("r2vpo.control.evaluation.MAX_EPISODE_STEPS", 20)
    assert evaluate_policy(still, IdentityEnv, 2, seed=0).cut == 0
    limited = evaluate_policy(still, lambda: gym.wrappers.TimeLimit(Endless(), 25), 2, seed=0)
    assert (limited.lengths, limited.cut) == ([25, 25], 0)
    with pytest.warns(UserWarning, match="within 20 steps"):
        R2VPO(Endless, run_dir=tmp_path / "run", **SMALL).learn(48)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["eval_episodes_cut"] == 6


class FailsInEvaluation(IdentityEnv):
    def reset(self, *, seed=None, options=None):
        if seed is not None and EVALUATION_SEED <= seed < EVALUATION_SEED + 100:
            raise self.error
        return super().reset(seed=seed, options=options)


@pytest.mark.parametrize("error", [RuntimeError("the simulator is gone"), KeyboardInterrupt()])
def test_an_evaluation_that_fails_leaves_everything_else(tmp_path, error):
    failing = type("Failing", (FailsInEvaluation,), {"error": error})
    model = R2VPO(failing, run_dir=tmp_path / "run", **SMALL)
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            model.learn(48)
    else:
        with pytest.warns(UserWarning, match="no evaluation: .*the simulator is gone"):
            model.learn(48)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    said = "stopped before its end" if isinstance(error, KeyboardInterrupt) else "the simulator is gone"
    assert said in summary["missing"]["evaluation"]
    assert summary["total_steps"] == 48
    assert (tmp_path / "run" / "curve.png").exists()
    resumed = R2VPO.resume(tmp_path / "run", env=IdentityEnv)
    resumed.learn()  # nothing is left to train, the evaluation is made good
    assert "missing" not in json.loads((tmp_path / "run" / "summary.json").read_text())


def test_a_failure_of_an_evaluation_names_the_environment():
    failing = type("Failing", (FailsInEvaluation,), {"error": RuntimeError("gone")})
    with pytest.raises(EnvironmentFailure, match=r"environment 0 of 2 \(Failing\) raised in reset: RuntimeError"):
        evaluate_policy(still, failing, 2, seed=EVALUATION_SEED)


@pytest.mark.parametrize(("name", "value"), [("episodes", 0), ("max_episode_steps", 0), ("seed", -1)])
def test_numbers_of_an_evaluation_are_checked(name, value):
    with pytest.raises(ConfigError, match=f"{name}={value}"):
        R2VPO(IdentityEnv, **SMALL).evaluate(**{name: value})


def test_a_stop_by_a_callback_ends_like_a_complete_run(tmp_path):
    model = R2VPO(IdentityEnv, run_dir=tmp_path / "run", total_steps=4800, **SMALL)
    model.learn(callback=lambda locals_, globals_: locals_["self"].num_timesteps < 90)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["total_steps"], summary["eval_episodes"]) == (96, 3)
    assert (tmp_path / "run" / "curve.png").exists()


class TakesInt32(IdentityEnv):
    def reset(self, *, seed=None, options=None):
        np.int32(seed or 0)  # raises where a C function would
        return super().reset(seed=seed, options=options)


def test_simulators_that_take_31_bits_get_seeds_of_as_many():
    seeds = np.random.SeedSequence(0).generate_state(8)
    assert seeds.max() >= 2**31
    R2VPO(TakesInt32, **{**SMALL, "num_envs": 8}).learn(96)
    result = evaluate_policy(still, TakesInt32, 1, seed=2**31 + 5)
    assert result == evaluate_policy(still, IdentityEnv, 1, seed=5)


def test_a_callback_that_fails_at_the_end_costs_nothing(tmp_path):
    class Fails(BaseCallback):
        def _on_training_end(self):
            raise ZeroDivisionError("at the end")

    with pytest.raises(ZeroDivisionError):
        R2VPO(IdentityEnv, run_dir=tmp_path / "run", **SMALL).learn(48, callback=Fails())
    assert "eval_return_mean" in json.loads((tmp_path / "run" / "summary.json").read_text())
