"""Bad input ends in an error that names the field, the value and what is allowed, and nothing is lost."""

import json
import pickle
import re
import zipfile
from dataclasses import fields

import gymnasium as gym
import numpy as np
import pytest
from small_envs import FailingEnv, IdentityEnv

from r2vpo.cli import main
from r2vpo.control import R2VPO, ControlConfig
from r2vpo.errors import (
    CheckpointError,
    ConfigError,
    EnvironmentFailure,
    RunDirectoryError,
    TrainingDiverged,
)
from r2vpo.runs.checkpoint import load_tree, save_tree

SMALL = {"num_envs": 2, "rollout_steps": 16, "minibatch_size": 16, "epochs": 1, "eval_episodes": 0}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lam", -0.1),
        ("lam", float("nan")),
        ("delta", 0.0),
        ("delta", -1.0),
        ("delta_per_dimension", 0.0),
        ("delta_per_dimension", None),
        ("reward_floor", -0.1),
        ("delta_decay", 1.5),
        ("advantage_scope", "epoch"),
        ("objective", "trpo"),
        ("algo", "both"),
        ("dual", "newton"),
        ("gamma", 1.5),
        ("num_envs", 0),
        ("num_envs", 2.5),
        ("learning_rate", 0.0),
        ("learning_rate", float("inf")),
        ("hidden_sizes", ()),
        ("total_steps", 0),
        ("seed", -1),
        ("utd", 0),
        ("buffer_iterations", 0),
        ("num_envs", True),
        ("overlap", 1),
        ("action_bounds", "wrap"),
    ],
)
def test_setting_out_of_range(field, value):
    with pytest.raises(ConfigError) as error:
        ControlConfig(**{field: value})
    assert field in str(error.value)
    assert repr(value) in str(error.value)
    assert "must be" in str(error.value)


def test_minibatch_larger_than_the_batch_names_both_sizes():
    with pytest.raises(ConfigError, match=r"minibatch_size=64 .* at most num_envs \* rollout_steps = 2 \* 16 = 32"):
        R2VPO(IdentityEnv, num_envs=2, rollout_steps=16, minibatch_size=64)


def test_adaptive_dual_multiplies_lambda_and_cannot_start_at_zero():
    with pytest.raises(ConfigError, match=r"lam=0.*above 0 for dual='adaptive'"):
        ControlConfig(dual="adaptive", lam=0)


def test_unknown_setting_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"n_steps=64 .* rollout_steps"):
        R2VPO(IdentityEnv, n_steps=64)


@pytest.mark.parametrize("name", ["n_steps", "batch_size", "n_epochs", "ent_coef", "vf_coef", "n_envs"])
def test_names_of_stable_baselines_are_answered_with_the_name_here(name):
    with pytest.raises(ConfigError, match=f"{name}=4 .* it is called ([a-z_]+) here") as error:
        R2VPO(IdentityEnv, **{name: 4})
    assert re.search(r"called (\w+) here", str(error.value))[1] in {f.name for f in fields(ControlConfig)}


@pytest.mark.parametrize("name", ["clip_range", "verbose", "tensorboard_log", "policy_kwargs", "device", "policy"])
def test_what_has_no_counterpart_says_why(name):
    with pytest.raises(ConfigError, match=f"{name}=None .* must be left out: ") as error:
        R2VPO(IdentityEnv, **{name: None})
    assert "The settings are" not in str(error.value)


def test_no_answer_is_given_to_a_name_that_is_a_setting():
    assert not {f.name for f in fields(ControlConfig)} & set(ControlConfig.ELSEWHERE)


def needs_argument(size):
    return IdentityEnv()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: (gym.make_vec("Pendulum-v1", 2),), "one environment; num_envs of them are made here"),
        (lambda: ("MlpPolicy", IdentityEnv), "the only argument without a name"),
        (lambda: (lambda: None,), "this one returned None"),
        (lambda: (lambda: 3,), "this one returned 3"),
        (lambda: (needs_argument,), "missing a required argument: 'size'"),
        (lambda: (None,), "a Gymnasium id"),
        (lambda: ("HalfCheetah-v2",), "HalfCheetah-v5"),
        (lambda: ("no_such_module:Id-v0",), "No module named 'no_such_module'"),
        (lambda: ("",), "a Gymnasium id|an id"),
    ],
)
def test_what_is_no_environment_is_answered_with_what_to_give(make, said):
    with pytest.raises(ConfigError, match=f"env=.*({said})"):
        R2VPO(*make())


def test_a_vector_environment_of_stable_baselines_is_refused():
    vec_env = pytest.importorskip("stable_baselines3.common.vec_env")
    with pytest.raises(ConfigError, match=r"env=.*num_envs of them are made here"):
        R2VPO(vec_env.DummyVecEnv([IdentityEnv]))


def test_arguments_of_the_environment_are_kept_and_checked(tmp_path):
    pendulum = {"total_steps": 64, "env_kwargs": {"g": 1.0}, **SMALL}
    model = R2VPO("Pendulum-v1", run_dir=tmp_path / "run", **pendulum)
    assert [env.unwrapped.g for env in model.collector.envs.envs] == [1.0, 1.0]
    model.learn()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["env_kwargs"] == {"g": 1.0}
    light = model.evaluate(2)
    for again in (R2VPO.load(tmp_path / "run"), R2VPO.resume(tmp_path / "run")):
        assert again.config.env == "Pendulum-v1"
        assert again.evaluate(2) == light
        again.close()
    assert R2VPO.load(tmp_path / "run", env="Pendulum-v1").evaluate(2) != light
    with pytest.raises(ConfigError, match=r"env='Pendulum-v1' .*TypeError.*gravity"):
        R2VPO("Pendulum-v1", env_kwargs={"gravity": 1.0})
    with pytest.raises(ConfigError, match=r"env_kwargs=.*left out where env is no id"):
        R2VPO(IdentityEnv, env_kwargs={"g": 1.0})


@pytest.mark.parametrize("seed", [2**64, -1, 0.5])
def test_seeds_that_no_generator_takes(seed):
    with pytest.raises(ConfigError, match="seed="):
        R2VPO(IdentityEnv, seed=seed)


def test_whole_numbers_may_be_written_otherwise(tmp_path):
    model = R2VPO(IdentityEnv, run_dir=tmp_path / "run", seed=np.int64(2), **{**SMALL, "num_envs": np.int64(2)})
    assert model.learn(1e2).num_timesteps == 128
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["num_envs"], config["seed"], config["total_steps"]) == (2, 2, 100)


def test_hyperparameters_are_checked_with_their_objective():
    with pytest.raises(ConfigError, match="cap=3"):
        R2VPO(IdentityEnv, objective="spo", objective_kwargs={"cap": 3})
    with pytest.raises(ConfigError, match=r"eps=-0\.2"):
        ControlConfig(objective="ppo_clip", objective_kwargs={"eps": -0.2})
    with pytest.raises(ConfigError, match=r"objective_kwargs=0\.2 .* a mapping"):
        ControlConfig(objective_kwargs=0.2)


def test_hyperparameters_are_taken_under_their_former_names():
    model = R2VPO(IdentityEnv, objective="ppo_clip", eps=0.3, **SMALL)
    assert model.config.objective_kwargs == {"eps": 0.3}
    assert model.learner.updater.objective.hyperparameters == {"eps": 0.3}


def test_unknown_environment_suggests_a_name():
    with pytest.raises(ConfigError, match="HalfCheetah-v5"):
        R2VPO("HalfCheeta-v5")


@pytest.mark.parametrize(("env", "field"), [("CartPole-v1", "action_space"), ("FrozenLake-v1", "observation_space")])
def test_spaces_that_are_no_boxes(env, field):
    with pytest.raises(ConfigError, match=f"{field}.*Box"):
        R2VPO(env)


@pytest.mark.parametrize("failure", ["raise", "nan reward", "nan observation"])
def test_failing_environment_loses_nothing(tmp_path, failure):
    made = []

    def make():
        made.append(FailingEnv(failure if len(made) == 1 else None))
        return made[-1]

    model = R2VPO(make, run_dir=tmp_path / "run", total_steps=320, **SMALL)
    expected = "the simulator is gone" if failure == "raise" else failure.removeprefix("nan ")
    with pytest.raises(
        EnvironmentFailure, match=f"environment 1 of 2.* in step 10 of its episode.*{expected}"
    ) as error:
        model.learn()
    assert "step 32 is saved" in str(error.value)
    model.close()
    resumed = R2VPO.resume(tmp_path / "run", env=IdentityEnv)
    assert resumed.num_timesteps == 32
    resumed.learn()
    assert resumed.num_timesteps == 320
    resumed.close()
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(32, 321, 32))


def test_failure_without_a_run_directory_is_reported_as_it_is():
    with pytest.raises(EnvironmentFailure, match="RuntimeError"):
        R2VPO(FailingEnv, total_steps=320, **SMALL).learn()


def test_updates_without_one_finite_step_stop_the_run(monkeypatch, tmp_path):
    model = R2VPO(IdentityEnv, run_dir=tmp_path / "run", total_steps=320, **SMALL)
    original = model.learner.updater.score

    def broken(minibatch):
        scored = original(minibatch)
        scored.auxiliary_loss = scored.auxiliary_loss * float("nan")
        return scored

    monkeypatch.setattr(model.learner.updater, "score", broken)
    before = [p.clone() for p in model.learner.policy.parameters()]
    with pytest.raises(TrainingDiverged, match="non-finite"):
        model.learn()
    assert all((p == q).all() for p, q in zip(before, model.learner.policy.parameters(), strict=True))
    model.close()


class TestCheckpoints:
    @pytest.fixture
    def saved(self, tmp_path):
        R2VPO(IdentityEnv, **SMALL).learn(64).save(tmp_path / "model.zip")
        return tmp_path / "model.zip"

    def test_missing(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"no checkpoint at .*nowhere\.zip"):
            R2VPO.load(tmp_path / "nowhere.zip")

    def test_a_folder_without_a_run(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"no checkpoint at .*checkpoints/latest\.zip"):
            R2VPO.load(tmp_path)

    @pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
    def test_truncated(self, saved, kept):
        content = saved.read_bytes()
        saved.write_bytes(content[: int(kept * len(content))])
        with pytest.raises(CheckpointError, match="truncated, damaged or foreign"):
            R2VPO.load(saved)

    def test_foreign_zip(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "sb3.zip", "w") as archive:
            archive.writestr("data", "{}")
        with pytest.raises(CheckpointError, match="not a checkpoint of this library"):
            R2VPO.load(tmp_path / "sb3.zip")

    def test_pickle_is_not_executed(self, tmp_path):
        class Payload:
            def __reduce__(self):
                return (exec, (f"open({str(tmp_path / 'executed')!r}, 'w')",))

        (tmp_path / "evil.zip").write_bytes(pickle.dumps(Payload()))
        with pytest.raises(CheckpointError):
            R2VPO.load(tmp_path / "evil.zip")
        assert not (tmp_path / "executed").exists()

    def test_of_another_kind(self, tmp_path):
        save_tree(tmp_path / "other.zip", {"kind": "r2vpo.llm"})
        with pytest.raises(CheckpointError, match=r"r2vpo\.llm"):
            R2VPO.load(tmp_path / "other.zip")

    def test_with_other_shapes(self, saved):
        tree = load_tree(saved)
        tree["config"]["hidden_sizes"] = (32, 32)
        save_tree(saved, tree)
        with pytest.raises(CheckpointError, match="size mismatch"):
            R2VPO.load(saved)

    def test_made_from_a_function_asks_for_it(self, saved):
        model = R2VPO.load(saved)
        assert model.predict(np.zeros(2, np.float32))[0].shape == (2,)
        with pytest.raises(ConfigError, match=r"env=None .*R2VPO.resume\(run_dir, env=IdentityEnv\)"):
            model.learn(64)
        assert R2VPO.load(saved, env=IdentityEnv).learn(64).num_timesteps == 64

    def test_with_an_environment_of_other_spaces(self, saved):
        class Other(IdentityEnv):
            pass

        class More(Other):
            action_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)

        class Wider(Other):
            action_space = gym.spaces.Box(-2.0, 2.0, (2,), np.float32)

        class Seen(Other):
            observation_space = gym.spaces.Box(-1.0, 1.0, (5,), np.float32)

        for kind, name in ((More, "action"), (Wider, "action"), (Seen, "observation")):
            for env in (kind, kind()):
                shown = re.escape(str(getattr(kind, f"{name}_space")))
                with pytest.raises(ConfigError, match=rf"env='{kind.__name__}' .*{name} space .*Box.*{shown}"):
                    R2VPO.load(saved, env=env)
        assert R2VPO.load(saved, env=Other).evaluate(1).lengths == [10]

    def test_trains_on_the_object_that_is_given(self, tmp_path):
        R2VPO(IdentityEnv(), rollout_steps=16, minibatch_size=16).learn(16).save(tmp_path / "model.zip")
        env = IdentityEnv()
        model = R2VPO.load(tmp_path / "model.zip", env=env)
        model.learn(16, reset_num_timesteps=False)
        assert model.collector.envs.envs[0].unwrapped is env


class TestRunDirectory:
    def test_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(RunDirectoryError, match="cannot be written"):
            R2VPO(IdentityEnv, run_dir=tmp_path / "file" / "run", **SMALL)

    def test_that_is_in_use(self, tmp_path):
        model = R2VPO(IdentityEnv, run_dir=tmp_path / "run", **SMALL)
        with pytest.raises(RunDirectoryError, match="in use"):
            R2VPO.resume(tmp_path / "run", env=IdentityEnv)
        model.close()

    def test_that_holds_a_run(self, tmp_path):
        R2VPO(IdentityEnv, run_dir=tmp_path / "run", **SMALL).close()
        with pytest.raises(RunDirectoryError, match="already holds a run"):
            R2VPO(IdentityEnv, run_dir=tmp_path / "run", **SMALL)

    def test_counts_one_run_only(self, tmp_path):
        model = R2VPO(IdentityEnv, run_dir=tmp_path / "run", **SMALL).learn(64)
        with pytest.raises(ConfigError, match="reset_num_timesteps=True"):
            model.learn(64)
        assert model.learn(64, reset_num_timesteps=False).num_timesteps == 128
        model.close()

    def test_without_a_run(self, tmp_path):
        with pytest.raises(RunDirectoryError, match="holds no run"):
            R2VPO.resume(tmp_path)
        assert not list(tmp_path.iterdir())

    def test_is_free_once_learn_has_ended(self, tmp_path):
        model = R2VPO(IdentityEnv, run_dir=tmp_path / "run", total_steps=64, **SMALL).learn()
        other = R2VPO.resume(tmp_path / "run", env=IdentityEnv)
        with pytest.raises(RunDirectoryError, match="in use"):
            model.learn(64, reset_num_timesteps=False)
        assert other.learn(64, reset_num_timesteps=False).num_timesteps == 128
        steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
        assert steps == [32, 64, 96, 128]

    @pytest.mark.parametrize("trained", [False, True])
    def test_of_a_function_is_resumed_with_it(self, tmp_path, trained, capsys):
        model = R2VPO(IdentityEnv, run_dir=tmp_path / "run", total_steps=64, **SMALL)
        if trained:
            model.learn(32)
        model.close()
        for words in (["train", "--quiet", "--resume"], ["evaluate"]) if trained else (["train", "--resume"],):
            assert main(["control", *words, str(tmp_path / "run")]) == 1
            assert "R2VPO.resume(run_dir, env=IdentityEnv).learn()" in capsys.readouterr().err
        resumed = R2VPO.resume(tmp_path / "run", env=IdentityEnv)
        assert resumed.learn(64, reset_num_timesteps=False).num_timesteps == 64 + 32 * trained
        assert R2VPO.load(tmp_path / "run", env=IdentityEnv).evaluate(2).lengths == [10, 10]

    def test_stopped_before_its_first_checkpoint(self, tmp_path):
        R2VPO("Pendulum-v1", run_dir=tmp_path / "run", total_steps=64, **SMALL).close()
        model = R2VPO.resume(tmp_path / "run")
        assert model.learn().num_timesteps == 64
        model.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["control", "train", "--env", "Nothing-v0"], "env='Nothing-v0'"),
        (["control", "train", "--env", "CartPole-v1"], "action_space"),
        (["control", "train", "--delta", "0"], "delta=0"),
        (["control", "train", "--n-steps", "64"], "n_steps='64'"),
        (["control", "train", "--clip-range=0.1"], "R²VPO does not clip"),
        (["control", "train", "--env", "HalfCheetah-v2"], "did you mean HalfCheetah-v"),
        (["control", "train", "--env", "no_such_module:Id-v0"], "No module named 'no_such_module'"),
        (["control", "train", "--env", "Pendulum-v1", "--env-kwargs", "gravity", "1"], "gravity"),
        (["control", "train", "--resume", "/nonexistent/run"], "holds no run"),
        (["control", "evaluate", "/nonexistent/run"], "no run or model at"),
        (["control", "compare", "--algos", "dqn"], "algos='dqn'"),
        (["control", "compare", "--seeds", "0"], "seeds=0"),
        (["plot", "/nonexistent/run"], "no metrics"),
        (["control", "walk"], "walk"),
        (["fly"], "fly"),
    ],
)
def test_command_line_errors_are_one_line_without_a_traceback(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(words)
    except SystemExit as exit_:  # how the argument parser refuses
        status = exit_.code
    captured = capsys.readouterr()
    assert status in (1, 2)
    assert said in (captured.err + captured.out).replace("\n", " ")
    assert "Traceback" not in captured.err + captured.out
    assert not list(tmp_path.iterdir())


def test_objectives_of_probabilities_are_refused():
    with pytest.raises(ConfigError, match=r"objective='dppo' .* the density of a continuous action is no probability"):
        R2VPO("Pendulum-v1", objective="dppo")
