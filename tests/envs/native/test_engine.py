import threading

import gymnasium as gym
import numpy as np
import pytest
from small_envs import IdentityEnv

from r2vpo.envs.engines import make_vector_env
from r2vpo.envs.native import NativeVectorEnv, NotNative, native_tasks, supports
from r2vpo.envs.vector import VectorEnv
from r2vpo.errors import ConfigError, EnvironmentFailure, TrainingDiverged
from r2vpo.runs.checkpoint import load_tree, save_tree

# Zero: both engines make the same MuJoCo calls on the same kind of data, and the native one repeats Gymnasium's
# arithmetic operation by operation.
TOLERANCE = 0.0
STEPS, NUM_ENVS = 300, 4
# Under random actions these fall; within these limits some episodes fall and some are cut.
FALLING = {
    "Hopper-v5": 20,
    "Walker2d-v5": 20,
    "InvertedPendulum-v5": 6,
    "InvertedDoublePendulum-v5": 6,
    "Ant-v5": 60,
    "Humanoid-v5": 20,
}


def draw_actions(envs, steps, seed=0):
    low, high = envs.action_space.low, envs.action_space.high
    return np.random.default_rng(seed).uniform(low, high, (steps, envs.num_envs, len(low))).astype(np.float32)


def play(envs, actions):
    """Everything a learner sees, as a list of arrays."""
    seen = []
    for action in actions:
        step = envs.step(action)
        finals = step.final_observations
        seen += [step.observations, step.rewards, step.terminated, step.truncated]
        seen += [np.array(sorted(finals)), *(finals[i] for i in sorted(finals))]
    return seen


def require_same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert np.abs(a.astype(float) - b.astype(float)).max(initial=0.0) <= TOLERANCE


@pytest.mark.parametrize("task", native_tasks())
def test_native_engine_equals_gymnasium(task, monkeypatch):
    if not task.startswith(("Reacher", "Pusher")):  # their own limits are short enough
        monkeypatch.setattr(gym.spec(task), "max_episode_steps", FALLING.get(task, 60))
    native, reference = NativeVectorEnv(task, NUM_ENVS, threads=2), VectorEnv(task, NUM_ENVS)
    assert (native.observation_space, native.action_space) == (reference.observation_space, reference.action_space)
    require_same([native.reset(11)], [reference.reset(11)])
    actions = draw_actions(reference, STEPS)
    terminated = truncated = 0
    for action in actions:
        ours, theirs = play(native, [action]), play(reference, [action])
        require_same(ours, theirs)
        terminated, truncated = terminated + theirs[2].sum(), truncated + theirs[3].sum()
    assert (terminated > 0) == (task in FALLING)
    assert truncated > 0


def test_double_precision_actions_beyond_the_bounds_are_treated_alike():
    native, reference = NativeVectorEnv("Hopper-v5", 3), VectorEnv("Hopper-v5", 3)
    actions = 3.0 * np.asfortranarray(draw_actions(reference, 100).astype(np.float64))
    require_same([native.reset(0)], [reference.reset(0)])
    require_same(play(native, actions), play(reference, actions))


def test_one_thousand_steps_truncate_an_episode_that_lasts():
    native, reference = NativeVectorEnv("Swimmer-v5", 1), VectorEnv("Swimmer-v5", 1)
    require_same([native.reset(3)], [reference.reset(3)])
    actions = draw_actions(reference, 1001)
    ours = play(native, actions)
    require_same(ours, play(reference, actions))
    # Five arrays a step, and one more in the step that ended the episode.
    truncated = [i for i, array in enumerate(ours) if array.dtype == bool and i % 5 == 3 and array.any()]
    assert truncated == [999 * 5 + 3]


@pytest.mark.parametrize("task", ["Walker2d-v5", "Ant-v5"])
def test_threads_do_not_change_results(task):
    results = []
    for threads in (1, 2, 3, 9):
        envs = NativeVectorEnv(task, 5, threads)
        first = envs.reset(1)
        results.append([first, *play(envs, draw_actions(envs, 60))])
        envs.close()
    for other in results[1:]:
        require_same(results[0], other)


@pytest.mark.parametrize("task", ["Hopper-v5", "Reacher-v5", "Humanoid-v5"])
@pytest.mark.parametrize(("saver", "loader"), [("native", "native"), ("native", "gymnasium"), ("gymnasium", "native")])
def test_saved_state_continues_in_either_engine(task, saver, loader, tmp_path):
    original = make_vector_env(task, 2, engine=saver)
    original.reset(5)
    play(original, draw_actions(original, 37))
    save_tree(tmp_path / "state.zip", original.state_dict())
    copy = make_vector_env(task, 2, engine=loader)
    copy.reset(99)
    state = load_tree(tmp_path / "state.zip")
    assert copy.load_state_dict(state) == []
    assert np.array_equal(copy.state_dict()["observations"], state["observations"])
    actions = draw_actions(original, 60, seed=1)
    require_same(play(copy, actions), play(original, actions))


def test_state_of_another_number_of_environments_is_refused():
    with pytest.raises(ValueError, match="2 environments were saved, there are 3"):
        NativeVectorEnv("Reacher-v5", 3).load_state_dict(NativeVectorEnv("Reacher-v5", 2).state_dict())


def test_unsupported_environments_are_config_errors(monkeypatch):
    assert "Pendulum-v1" not in native_tasks()
    for env in ("Pendulum-v1", "HalfCheetah-v4", "NoSuchTask-v0", IdentityEnv):
        assert not supports(env)
        with pytest.raises(ConfigError, match="native engine"):
            NativeVectorEnv(env, 2)
    for field, value in (("num_envs", 0), ("threads", 0)):
        with pytest.raises(ConfigError, match=f"{field}=0"):
            NativeVectorEnv("Reacher-v5", **{"num_envs": 2, field: value})
    assert supports("Hopper-v5")
    monkeypatch.setitem(gym.spec("Hopper-v5").kwargs, "terminate_when_unhealthy", False)
    assert not supports("Hopper-v5")
    monkeypatch.setattr(gym.spec("Reacher-v5"), "entry_point", IdentityEnv)
    assert not supports("Reacher-v5")


def test_another_definition_in_gymnasium_is_noticed(monkeypatch):
    from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv

    original = HalfCheetahEnv.control_cost
    monkeypatch.setattr(HalfCheetahEnv, "control_cost", lambda self, action: 1.01 * original(self, action))
    with pytest.raises(NotNative, match="in another way"):
        NativeVectorEnv("HalfCheetah-v5", 2)
    envs = make_vector_env("HalfCheetah-v5", 2)
    assert envs.engine == "gymnasium"
    assert "in another way" in envs.engine_reason


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize(
    ("action", "error", "said"),
    [
        (1e30, EnvironmentFailure, r"environment 2 of 4 \(HalfCheetah-v5\) returned in step 1 of its episode a reward"),
        (np.nan, TrainingDiverged, r"the policy's action for environment 2 of 4 \(HalfCheetah-v5\) is not finite"),
    ],
)
def test_values_that_are_not_finite_are_reported_as_gymnasiums_are(tmp_path, monkeypatch, action, error, said):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings to a file in the working directory
    messages = []
    for engine in ("native", "gymnasium"):
        envs = make_vector_env("HalfCheetah-v5", 4, engine)
        envs.reset(0)
        actions = draw_actions(envs, 1)[0]
        actions[2, 1] = action
        with pytest.raises(error, match=said) as failure:
            envs.step(actions)
        messages.append(str(failure.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("ending", [False, True])
def test_observations_that_are_not_finite_are_reported(ending, monkeypatch):
    envs = NativeVectorEnv("Hopper-v5", 3)
    envs.reset(0)
    observations = np.zeros((3, 11))
    observations[1, 4] = np.inf
    outcome = observations, np.zeros(3), np.array([False, ending, False])
    monkeypatch.setattr(envs._task, "after", lambda before, actions: outcome)
    with pytest.raises(EnvironmentFailure, match=f"environment 1 of 3 .*{'a final' if ending else 'an'} observation"):
        envs.step(np.zeros((3, 3), np.float32))


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_inside_mujoco_names_the_environment(threads, monkeypatch):
    envs = NativeVectorEnv("Reacher-v5", 4, threads)
    envs.reset(0)
    step, broken = envs._simulations._step, envs._simulations.datas[3]

    def fail(model, data, substeps):
        if data is broken:
            raise RuntimeError("the simulator is gone")
        step(model, data, substeps)

    with monkeypatch.context() as patch:
        patch.setattr(envs._simulations, "_step", fail)
        with pytest.raises(EnvironmentFailure, match=r"environment 3 of 4 .*the simulator is gone"):
            envs.step(np.zeros((4, 2), np.float32))
    assert envs.step(np.zeros((4, 2), np.float32)).rewards.shape == (4,)
    with pytest.raises(EnvironmentFailure, match=r"shape \(4, 3\)"):
        envs.step(np.zeros((4, 3), np.float32))


def test_threads_end_with_their_environments():
    def running():
        return {thread for thread in threading.enumerate() if thread.name == "r2vpo-native"}

    before = running()
    closed, forgotten = NativeVectorEnv("Reacher-v5", 4, threads=3), NativeVectorEnv("Reacher-v5", 4, threads=3)
    for envs in (closed, forgotten):
        envs.reset(0)
        envs.step(np.zeros((4, 2), np.float32))
    started = running() - before
    assert len(started) == 4
    closed.close()
    closed.step(np.zeros((4, 2), np.float32))
    del forgotten, envs
    for thread in started:
        thread.join(timeout=5)
    assert not running() - before


@pytest.mark.parametrize(
    ("env", "num_envs", "engine", "expected", "reason"),
    [
        ("Reacher-v5", 2, "auto", "native", "covers Reacher-v5"),
        ("Reacher-v5", 1, "auto", "native", "covers Reacher-v5"),
        ("Reacher-v5", 1, "native", "native", "asked for"),
        ("Reacher-v5", 2, "gymnasium", "gymnasium", "asked for"),
        ("Pendulum-v1", 2, "auto", "gymnasium", "no vectorised code for Pendulum-v1"),
        (IdentityEnv, 2, "auto", "gymnasium", "own code"),
    ],
)
def test_engine_is_chosen_and_explained(env, num_envs, engine, expected, reason):
    envs = make_vector_env(env, num_envs, engine)
    assert (envs.engine, type(envs)) == (expected, NativeVectorEnv if expected == "native" else VectorEnv)
    assert reason in envs.engine_reason


def test_engine_that_cannot_be_had_is_an_error():
    with pytest.raises(ConfigError, match="engine='fast'"):
        make_vector_env("Reacher-v5", 2, "fast")
    with pytest.raises(ConfigError, match="native engine"):
        make_vector_env("Pendulum-v1", 2, "native")
    with pytest.raises(ConfigError, match="NoSuchTask-v0"):
        make_vector_env("NoSuchTask-v0", 2)


def test_staggered_episodes_are_cut_one_after_the_other_in_both_engines():
    engines = [NativeVectorEnv("Reacher-v5", 4), VectorEnv("Reacher-v5", 4)]  # 50 steps an episode
    cuts, early = [], []
    for envs in engines:
        envs.reset(seed=0)
        early.append(envs.stagger().tolist())
        truncated = np.array([envs.step(np.zeros((4, 2))).truncated for _ in range(100)])
        cuts.append([(np.flatnonzero(column) + 1).tolist() for column in truncated.T])
        envs.close()
    assert cuts[0] == cuts[1] == [[50, 100], [38, 88], [25, 75], [13, 63]]
    assert early[0] == early[1] == [False, True, True, True]


def test_nothing_is_staggered_without_a_time_limit():
    envs = VectorEnv(IdentityEnv, 3)
    envs.reset(seed=0)
    assert not envs.stagger().any()
