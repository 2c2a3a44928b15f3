"""Callbacks: when they are called, and what they may do."""

import json

import numpy as np
import pytest
from small_envs import IdentityEnv

from r2vpo.control import (
    R2VPO,
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    StopOnNoImprovement,
    StopOnReward,
)
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

        def _on_update_end(self):
            calls.append(f"update {self.metrics['step']}")

        def _on_training_end(self):
            calls.append("end")

    R2VPO(IdentityEnv, num_envs=2, rollout_steps=2, minibatch_size=2).learn(8, callback=[Recorder()])
    first = ["start", "rollout", 2, 4, "rollout end", "update 4"]
    assert calls == [*first, "rollout", 6, 8, "rollout end", "update 8", "end"]


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


def test_what_a_callback_records_goes_into_the_metrics_of_the_iteration(tmp_path):
    class Records(BaseCallback):
        def _on_step(self):
            self.logger.record_mean("mine/mean", self.locals["rewards"].mean())
            self.logger.record("mine/dones", np.float32(self.locals["dones"].sum()))

        def _on_update_end(self):
            self.logger.record("mine/double", 2 * self.metrics["ratio_variance"])
            self.logger.record("mine/hidden", 1.0, exclude="json")

    model = R2VPO(IdentityEnv, **SMALL, run_dir=tmp_path / "run").learn(256, callback=Records())
    lines = read_metrics(tmp_path / "run")
    assert [line["mine/double"] for line in lines] == [2 * line["ratio_variance"] for line in lines]
    assert all(-10 < line["mine/mean"] < 0 and line["mine/dones"] in range(5) for line in lines)
    assert not [line for line in lines if "mine/hidden" in line]
    assert model.metrics["mine/double"] == lines[-1]["mine/double"]


def test_evaluations_are_in_the_metrics_up_to_the_last(tmp_path):
    callback = EvalCallback(eval_freq=300, eval_env=IdentityEnv, n_eval_episodes=2)
    R2VPO(IdentityEnv, **SMALL, run_dir=tmp_path / "run").learn(512, callback=callback)
    found = [
        (line["step"], line["eval_return_mean"])
        for line in read_metrics(tmp_path / "run")
        if "eval_return_mean" in line
    ]
    assert found == callback.evaluations
    assert [step for step, _ in found] == [384, 512]  # the last, though 300 steps had not passed


def test_checkpoints_under_names_of_their_own(tmp_path):
    R2VPO(IdentityEnv, **SMALL).learn(640, callback=CheckpointCallback(200, tmp_path, "id"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["id_256_steps.zip", "id_512_steps.zip"]
    assert R2VPO.load(tmp_path / "id_256_steps.zip", env=IdentityEnv).num_timesteps == 256


@pytest.mark.parametrize(
    ("callback", "steps"),
    [
        (StopOnReward(-1e9), 128),
        (StopOnReward(1e9), 1_024),
        (StopOnReward(-1e9, "eval_return_mean"), 256),
        (StopOnNoImprovement(256, min_improvement=1e9), 256 + 128),
        (StopOnNoImprovement(256, min_improvement=-1e9), 1_024),
        (StopOnNoImprovement(256, "eval_return_mean", min_improvement=1e9), 256 + 256),
    ],
)
def test_stopping_at_a_return_or_when_it_gets_no_better(callback, steps):
    callbacks = [EvalCallback(eval_freq=256, n_eval_episodes=1), callback]
    assert R2VPO(IdentityEnv, **SMALL).learn(1_024, callback=callbacks).num_timesteps == steps


@pytest.mark.parametrize("make", [lambda: EvalCallback(IdentityEnv), lambda: StopOnReward(1.0, "reward")])
def test_arguments_of_callbacks_are_checked(make):
    with pytest.raises(ConfigError):
        make()


def test_a_callback_that_fails_after_the_update_loses_nothing(tmp_path):
    class Fails(BaseCallback):
        def _on_update_end(self):
            if self.num_timesteps == 256:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        R2VPO(IdentityEnv, **SMALL, run_dir=tmp_path / "run", total_steps=512).learn(callback=Fails())
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [128, 256]
    assert R2VPO.resume(tmp_path / "run", env=IdentityEnv).num_timesteps == 256


def test_callbacks_change_nothing_about_a_seed():
    plain, watched = (R2VPO("Pendulum-v1", num_envs=2, rollout_steps=32, minibatch_size=32) for _ in range(2))
    plain.learn(256)
    watched.learn(256, callback=[EvalCallback(eval_freq=64, n_eval_episodes=1), StopOnReward(1e9)])
    assert plain.episodes == watched.episodes
    assert all((a == b).all() for a, b in zip(plain.policy.parameters(), watched.policy.parameters(), strict=True))


def test_callbacks_of_stable_baselines_work_as_they_are(tmp_path):
    theirs = pytest.importorskip("stable_baselines3.common.callbacks")
    from stable_baselines3.common.env_util import make_vec_env

    class Mine(theirs.BaseCallback):
        def _on_step(self):
            assert self.training_env.num_envs == self.model.n_envs == 4
            self.logger.record("mine/steps", self.training_env.get_attr("steps")[0])
            return True

        def _on_training_end(self):
            self.last = self.model.ep_info_buffer[-1]

    mine, stop = Mine(), theirs.StopTrainingOnNoModelImprovement(max_no_improvement_evals=100)
    evaluating = theirs.EvalCallback(
        make_vec_env(IdentityEnv, 2), eval_freq=64, callback_after_eval=stop, best_model_save_path=tmp_path, verbose=0
    )
    model = R2VPO(IdentityEnv, **SMALL, run_dir=tmp_path / "run")
    model.learn(512, callback=[mine, evaluating, theirs.CheckpointCallback(50, tmp_path / "kept")])
    lines = read_metrics(tmp_path / "run")
    assert [line["mine/steps"] for line in lines] == [2, 4, 6, 8]
    assert lines[-1]["eval_return_mean"] == pytest.approx(evaluating.last_mean_reward)
    assert [line["step"] for line in lines if "eval_return_mean" in line] == [256, 512]
    assert mine.last["l"] > 0
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [
        "rl_model_200_steps.zip",
        "rl_model_400_steps.zip",
    ]
    best = R2VPO.load(tmp_path / "best_model.zip", env=IdentityEnv)
    assert best.predict(np.zeros(best.observation_space.shape, np.float32))[0].shape == best.action_space.shape


def test_episodes_are_counted_for_stable_baselines():
    theirs = pytest.importorskip("stable_baselines3.common.callbacks")
    model = R2VPO(IdentityEnv, **SMALL)
    counting = theirs.StopTrainingOnMaxEpisodes(max_episodes=2)
    model.learn(2_000, callback=theirs.CallbackList([counting]))
    assert counting.n_episodes >= 8
    assert model.num_timesteps < 2_000


def test_a_callback_reaches_into_environments_of_python_alone():
    theirs = pytest.importorskip("stable_baselines3.common.callbacks")

    class Reaches(theirs.BaseCallback):
        def _on_step(self):
            return bool(self.training_env.get_attr("spec"))

    with pytest.raises(ConfigError, match="engine='auto' is not allowed"):
        R2VPO("Hopper-v5", **SMALL).learn(128, callback=Reaches())
