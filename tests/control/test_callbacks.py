"""Callbacks: when they are called, and what they may do."""

import json

import numpy as np
import pytest
from small_envs import IdentityEnv

from r2vpo.control import R2VPO, BaseCallback, CallbackList, EvalCallback
from r2vpo.control.callbacks import StopTrainingOnMaxEpisodes
from r2vpo.errors import ConfigError, RunDirectoryError
from r2vpo.runs.directory import read_metrics

SMALL = {"num_envs": 4, "rollout_steps": 32, "minibatch_size": 32, "epochs": 4, "eval_episodes": 0}


def test_order_and_counts():
    calls = []

    class Recorder(BaseCallback):
        def _on_training_start(self):
            calls.append("start")

        def _on_rollout_start(self):
            calls.append("rollout")

        def _on_step(self):
            calls.append(self.num_timesteps)
            return True

        def _on_rollout_end(self):
            calls.append("rollout end")

        def _on_training_end(self):
            calls.append("end")

    R2VPO(IdentityEnv, num_envs=2, rollout_steps=2, minibatch_size=2).learn(8, callback=[Recorder()])
    assert calls == ["start", "rollout", 2, 4, "rollout end", "rollout", 6, 8, "rollout end", "end"]


def test_metrics_of_the_last_update_are_there_before_the_next_rollout(tmp_path):
    seen = []

    class Watch(BaseCallback):
        def _on_rollout_start(self):
            seen.append(self.model.metrics)

        _on_training_end = _on_rollout_start

    run_dir = tmp_path / "run"
    R2VPO(IdentityEnv, num_envs=2, rollout_steps=2, minibatch_size=2, run_dir=run_dir).learn(8, callback=Watch())
    assert json.dumps(seen) == json.dumps([{}, *read_metrics(run_dir)])  # where NaN is itself
    assert [line["step"] for line in seen[1:]] == [4, 8]
    assert all({"return", "ratio_variance", "lam"} <= line.keys() for line in seen[1:])


def test_function_stops_after_the_iteration():
    model = R2VPO(IdentityEnv, **SMALL)
    model.learn(10_000, callback=lambda locals_, globals_: locals_["self"].num_timesteps < 200)
    assert model.num_timesteps == 256


def test_list_stops_when_one_does():
    model = R2VPO(IdentityEnv, **SMALL)
    model.learn(10_000, callback=CallbackList([BaseCallback(), StopTrainingOnMaxEpisodes(10)]))
    assert model.num_timesteps == 256


def test_evaluation_keeps_the_best_model(tmp_path):
    callback = EvalCallback(eval_freq=512, n_eval_episodes=5, best_model_save_path=tmp_path)
    model = R2VPO(IdentityEnv, gamma=0.5, learning_rate=3e-3, **SMALL).learn(4_096, callback=callback)
    assert [step for step, _ in callback.evaluations] == list(range(512, 4097, 512))
    best = R2VPO.load(tmp_path / "best_model.zip", env=IdentityEnv)
    assert best.evaluate(5, seed=model.config.seed + 1_000_000).mean == callback.best_mean_reward


@pytest.mark.parametrize("wanted", [None, True, 1, np.True_])
def test_a_step_that_does_not_return_false_goes_on(wanted):
    class Silent(BaseCallback):
        def _on_step(self):
            return wanted

    assert R2VPO(IdentityEnv, **SMALL).learn(512, callback=Silent()).num_timesteps == 512
    assert R2VPO(IdentityEnv, **SMALL).learn(512, callback=[Silent(), lambda *_: wanted]).num_timesteps == 512


@pytest.mark.parametrize("unwanted", [False, 0, np.False_])
def test_a_step_that_returns_false_stops(unwanted):
    assert R2VPO(IdentityEnv, **SMALL).learn(512, callback=lambda *_: unwanted).num_timesteps == 128


def test_what_is_no_callback_is_refused():
    model = R2VPO(IdentityEnv, **SMALL)
    for wrong in (EvalCallback, "checkpoint", 3, [3]):
        with pytest.raises(ConfigError, match=r"callback=.*a BaseCallback of r2vpo.control"):
            model.learn(128, callback=wrong)
    theirs = pytest.importorskip("stable_baselines3.common.callbacks")
    for other in (theirs.CheckpointCallback(100, "x"), theirs.CallbackList([])):
        with pytest.raises(ConfigError, match=r"a run_dir keeps checkpoints"):
            model.learn(128, callback=other)
    assert model.num_timesteps == 0


def test_a_callback_that_fails_loses_no_iteration(tmp_path):
    class Fails(BaseCallback):
        def _on_step(self):
            if self.num_timesteps > 300:
                raise ZeroDivisionError("in a callback")

    settings = {**SMALL, "run_dir": tmp_path / "run", "total_steps": 512, "checkpoint_seconds": 1000}
    model = R2VPO(IdentityEnv, **settings)
    with pytest.raises(ZeroDivisionError) as caught:
        model.learn(callback=Fails())
    assert "the run up to step 256 is saved" in caught.value.__notes__[0]
    resumed = R2VPO.resume(tmp_path / "run", env=IdentityEnv)  # the failed model has given the directory back
    assert resumed.num_timesteps == 256
    assert resumed.learn().num_timesteps == 512
    with pytest.raises(RunDirectoryError, match="gone on with by somebody else"):
        model.learn()
