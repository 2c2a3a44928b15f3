import sys

import gymnasium as gym
import numpy as np
import pytest
from small_envs import IdentityEnv

from r2vpo.control import R2VPO
from r2vpo.envs.engines import make_vector_env
from r2vpo.envs.vector import VectorEnv
from r2vpo.errors import ConfigError, EnvironmentFailure
from r2vpo.runs.checkpoint import load_tree, save_tree


@pytest.fixture
def envpool():
    return pytest.importorskip("envpool", reason="EnvPool is not installed (pip install envpool)")


def make(task="Hopper-v5", num_envs=4, **more):
    return make_vector_env(task, num_envs, engine="envpool", **more)


def draw_actions(envs, steps, seed=0):
    low, high = envs.action_space.low, envs.action_space.high
    return np.random.default_rng(seed).uniform(low, high, (steps, envs.num_envs, len(low))).astype(np.float32)


def play(envs, actions):
    steps = [envs.step(action) for action in actions]
    return np.stack([step.observations for step in steps]), np.stack([step.rewards for step in steps])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(ConfigError, match=r"engine='envpool'.*auto, native or gymnasium.*pip install envpool"):
        make()


def test_auto_never_takes_it():
    assert {make_vector_env(task, 2).engine for task in ("Reacher-v5", "Pendulum-v1")} == {"native", "gymnasium"}


def test_numbers_below_one_are_refused():
    for field, settings in (("num_envs", {"num_envs": 0}), ("threads", {"threads": 0})):
        with pytest.raises(ConfigError, match=f"{field}=0"):
            make(**settings)


@pytest.mark.usefixtures("envpool")
def test_tasks_it_does_not_know_are_refused():
    for env, reason in (("NoSuchTask-v0", "registered with Gymnasium"), (IdentityEnv, "own code")):
        with pytest.raises(ConfigError, match=reason):
            make(env, 2)
    gym.register("OursAlone-v0", entry_point=lambda render_mode: IdentityEnv())
    try:
        with pytest.raises(ConfigError, match=r"env='OursAlone-v0'.*a task that EnvPool knows"):
            make("OursAlone-v0", 2)
    finally:
        del gym.registry["OursAlone-v0"]


@pytest.mark.usefixtures("envpool")
@pytest.mark.parametrize("task", ["HalfCheetah-v5", "Ant-v5", "Pendulum-v1"])
def test_spaces_are_gymnasiums(task):
    envs, reference = make(task, 2, threads=1), VectorEnv(task, 2)
    assert (envs.observation_space, envs.action_space) == (reference.observation_space, reference.action_space)
    assert (envs.engine, envs.engine_reason) == ("envpool", "it was asked for")
    first = envs.reset(0)
    step = envs.step(draw_actions(envs, 1)[0])
    ours = [first, step.observations, step.rewards, step.terminated, step.truncated]
    theirs = [reference.reset(0), *vars(reference.step(draw_actions(reference, 1)[0])).values()][:5]
    assert [(a.shape, a.dtype) for a in ours] == [(a.shape, a.dtype) for a in theirs]


@pytest.mark.usefixtures("envpool")
def test_the_same_seed_gives_the_same_trajectory_on_any_number_of_threads():
    results = []
    for seed, threads in ((3, 1), (3, 2), (4, 1)):
        envs = make(threads=threads)
        results.append((envs.reset(seed), *play(envs, draw_actions(envs, 100))))
        envs.close()
    assert all(np.array_equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert not np.array_equal(results[0][0], results[2][0])
    assert len(np.unique(results[0][0], axis=0)) == 4


@pytest.mark.usefixtures("envpool")
def test_a_fall_ends_an_episode_with_its_final_observation_and_a_reset_in_the_same_step():
    envs = make()
    envs.reset(0)
    low, high = gym.make("Hopper-v5").unwrapped._healthy_z_range
    ended, age = 0, np.zeros(4, dtype=int)
    for action in draw_actions(envs, 200):
        step = envs.step(action)
        age += 1
        assert not step.truncated.any()
        assert sorted(step.final_observations) == np.flatnonzero(step.terminated).tolist()
        for i, final in step.final_observations.items():
            angle_or_height = abs(final[1]) > 0.2 or not low < final[0] < high
            assert angle_or_height
            assert abs(step.observations[i, 0] - 1.25) < 0.01
            assert np.abs(step.observations[i, 5:]).max() < 0.01
            # The step after the reset is a step of the new episode, not the reset once more.
            assert age[i] > 1
            ended, age[i] = ended + 1, 0
    assert ended > 8


@pytest.mark.usefixtures("envpool")
def test_the_time_limit_of_half_cheetah_truncates():
    envs = make("HalfCheetah-v5", 2)
    envs.reset(0)
    cut = []
    for t, action in enumerate(draw_actions(envs, 2001)):
        step = envs.step(action)
        assert not step.terminated.any()
        if step.truncated.any():
            cut.append(t)
            assert step.truncated.all()
            assert sorted(step.final_observations) == [0, 1]
            assert np.abs(step.observations[:, :8]).max() <= 0.1 < np.abs(step.final_observations[0]).max()
    assert cut == [999, 1999]


@pytest.mark.usefixtures("envpool")
def test_gymnasiums_time_limit_holds(monkeypatch):
    monkeypatch.setattr(gym.spec("HalfCheetah-v5"), "max_episode_steps", 7)
    envs = make("HalfCheetah-v5", 1)
    envs.reset(0)
    truncated = [bool(envs.step(action).truncated[0]) for action in draw_actions(envs, 21)]
    assert truncated == 3 * ([False] * 6 + [True])


@pytest.mark.usefixtures("envpool")
def test_actions_of_another_shape_are_refused():
    envs = make()
    envs.reset(0)
    with pytest.raises(EnvironmentFailure, match=r"shape \(4, 2\) instead of \(4, 3\)"):
        envs.step(np.zeros((4, 2), np.float32))


@pytest.mark.usefixtures("envpool")
def test_a_restored_state_begins_new_episodes_that_its_own_past_decides(tmp_path):
    envs = make()
    envs.reset(5)
    play(envs, draw_actions(envs, 10))
    save_tree(tmp_path / "state.zip", envs.state_dict())
    state, firsts = load_tree(tmp_path / "state.zip"), []
    for seed in (1, 2):
        copy = make()
        copy.reset(seed)
        assert copy.load_state_dict(state) == ["EnvPool's episodes under way"]
        firsts.append(copy.observations.copy())
    assert np.array_equal(*firsts)
    assert not np.array_equal(firsts[0], make().reset(5))
    with pytest.raises(ValueError, match="4 environments were saved, there are 3"):
        make(num_envs=3).load_state_dict(state)


@pytest.mark.usefixtures("envpool")
def test_states_of_other_engines_are_told_apart():
    ours, theirs = make("Reacher-v5", 2), VectorEnv("Reacher-v5", 2)
    for envs in (ours, theirs):
        envs.reset(0)
    with pytest.raises(ValueError, match="another engine"):
        ours.load_state_dict(theirs.state_dict())
    with pytest.raises(ValueError, match="another engine"):
        theirs.load_state_dict(ours.state_dict())


@pytest.mark.usefixtures("envpool")
def test_a_run_trains_saves_and_resumes_with_a_warning(tmp_path):
    small = {"num_envs": 2, "rollout_steps": 20, "minibatch_size": 20, "epochs": 1, "eval_episodes": 0}
    model = R2VPO("HalfCheetah-v5", engine="envpool", run_dir=tmp_path / "run", total_steps=160, **small)
    assert model.engine == "envpool: it was asked for"
    model.learn(80)
    model.close()
    resumed = R2VPO.resume(tmp_path / "run")
    with pytest.warns(UserWarning, match="EnvPool's episodes under way.*not bit for bit"):
        resumed.learn(80, reset_num_timesteps=False)
    assert resumed.num_timesteps == 160
    assert resumed.collector.episode_lengths.tolist() == [40, 40]
    resumed.close()
