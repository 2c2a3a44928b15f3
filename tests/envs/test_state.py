"""Exact states of environments, and the making of them."""

import gymnasium as gym
import numpy as np
import pytest
from small_envs import CountingEnv, IdentityEnv

from r2vpo.envs.making import make_env
from r2vpo.envs.state import capture_state, restore_state
from r2vpo.runs.checkpoint import load_tree, save_tree

TASKS = [
    "HalfCheetah-v5",
    "Hopper-v5",
    "Walker2d-v5",
    "Ant-v5",
    "Humanoid-v5",
    "Swimmer-v5",
    "Reacher-v5",
    "Pusher-v5",
    "InvertedDoublePendulum-v5",
    "Pendulum-v1",
    "MountainCarContinuous-v0",
]


def random_actions(env, count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.uniform(env.action_space.low, env.action_space.high).astype(np.float32) for _ in range(count)]


def play(env, actions):
    """Everything an agent sees, resets included."""
    seen = []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        seen += [np.asarray(observation, float), np.array([reward, terminated, truncated], float)]
        if terminated or truncated:
            seen.append(np.asarray(env.reset()[0], float))
    return np.concatenate(seen)


@pytest.mark.parametrize("task", TASKS)
def test_restored_environment_repeats_the_original_bit_for_bit(task, tmp_path):
    original = make_env(task)
    original.reset(seed=3)
    play(original, random_actions(original, 57))
    save_tree(tmp_path / "state.zip", capture_state(original))
    copy = make_env(task)
    copy.reset(seed=99)
    state = load_tree(tmp_path / "state.zip")
    assert state["unknown"] == []
    restore_state(copy, state)
    actions = random_actions(original, 250, seed=1)
    assert np.array_equal(play(original, actions), play(copy, actions))


def test_time_limit_is_part_of_the_state():
    original = make_env("Pendulum-v1")
    original.reset(seed=0)
    for action in random_actions(original, 150):
        original.step(action)
    copy = make_env("Pendulum-v1")
    copy.reset(seed=1)
    restore_state(copy, capture_state(original))
    truncated = [copy.step(action)[3] for action in random_actions(copy, 50)]
    assert truncated == [False] * 49 + [True]


def test_state_kept_in_foreign_objects_is_named():
    class Foreign(CountingEnv):
        def __init__(self):
            super().__init__()
            self.simulator = object()

    env = Foreign()
    env.reset(seed=0)
    assert capture_state(env)["unknown"] == ["Foreign.simulator"]


def test_restoring_into_another_environment_is_refused():
    hopper, cheetah, pendulum = (make_env(n) for n in ("Hopper-v5", "HalfCheetah-v5", "Pendulum-v1"))
    for env in (hopper, cheetah, pendulum):
        env.reset(seed=0)
    with pytest.raises(ValueError, match="differs"):
        restore_state(cheetah, capture_state(hopper))
    with pytest.raises(ValueError, match="not"):
        restore_state(pendulum, capture_state(hopper))
    with pytest.raises(ValueError, match="layers"):
        restore_state(gym.wrappers.ClipAction(hopper), capture_state(hopper))


def test_an_id_whose_environment_takes_no_argument_is_made():
    gym.register("NoArgument-v0", IdentityEnv)
    try:
        assert isinstance(make_env("NoArgument-v0").unwrapped, IdentityEnv)
    finally:
        del gym.registry["NoArgument-v0"]


def test_known_model_warning_is_silent_and_others_are_not(recwarn, monkeypatch):
    mujoco = pytest.importorskip("mujoco")
    make_env("HalfCheetah-v5")
    assert not recwarn.list
    from r2vpo.envs import making

    with making._quiet_model_warning(), pytest.warns(UserWarning, match="tendon"):
        mujoco.get_mju_user_warning()("a tendon is slack")
