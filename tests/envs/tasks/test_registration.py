"""Our tasks in Gymnasium's registry, and those of other packages by name."""

import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from control_tasks import IDS, SHIFT

from r2vpo.envs.making import make_env, require_box_spaces
from r2vpo.envs.state import capture_state, restore_state
from r2vpo.envs.tasks import register_tasks
from r2vpo.errors import ConfigError
from r2vpo.runs.checkpoint import load_tree, save_tree


def test_core_imports_without_gymnasium_and_the_package_registers():
    code = (
        "import sys, r2vpo\n"
        "from r2vpo import make_objective\n"
        "assert not {'gymnasium', 'mujoco'} & set(sys.modules)\n"
        "import gymnasium\n"
        "assert not [i for i in gymnasium.registry if i.startswith('r2vpo/')]\n"
        "env = gymnasium.make('r2vpo.envs.tasks:r2vpo/HopperShift-v0')\n"
        "assert env.spec.id == 'r2vpo/HopperShift-v0'\n"
        "gymnasium.make('r2vpo/SparseReacher-v0')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_registering_again_changes_nothing(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = [gym.registry[env_id] for env_id in IDS]
        register_tasks()
    assert all(gym.registry[env_id] is spec for env_id, spec in zip(IDS, before, strict=True))
    own = gym.envs.registration.EnvSpec(SHIFT, entry_point="elsewhere:Env")
    monkeypatch.setitem(gym.registry, SHIFT, own)
    register_tasks()
    assert gym.registry[SHIFT] is own


@pytest.mark.parametrize("env_id", ["AntMaze_UMaze-v5", "PointMaze_UMaze-v3", "FetchReach-v4"])
def test_missing_package_is_named(env_id, monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    monkeypatch.delitem(gym.registry, env_id, raising=False)
    with pytest.raises(ConfigError, match=r'gymnasium-robotics \(pip install "r2vpo\[robotics\]"\)'):
        make_env(env_id)


def test_other_unknown_ids_get_suggestions():
    with pytest.raises(ConfigError, match="did you mean r2vpo/HopperShift-v0"):
        make_env("r2vpo/HoperShift-v0")


@pytest.mark.parametrize(
    ("env_id", "size", "position", "goal"),
    [
        ("PointMaze_UMaze-v3", 6, slice(2, 4), slice(0, 2)),
        ("AntMaze_UMaze-v5", 109, slice(0, 2), slice(2, 4)),
    ],
)
def test_mazes_are_flat_and_restore_exactly(env_id, size, position, goal, tmp_path):
    pytest.importorskip("gymnasium_robotics")
    original, copy = make_env(env_id), make_env(env_id)
    require_box_spaces(original)
    assert original.observation_space.shape == (size,)
    observation, _ = original.reset(seed=1)
    assert np.array_equal(observation[goal], original.unwrapped.goal)
    assert np.array_equal(observation[position], original.unwrapped.data.qpos[:2])
    copy.reset(seed=2)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (60, *original.action_space.shape)).astype(np.float32)
    for action in actions[:20]:
        original.step(action)
        copy.step(-action)
    save_tree(tmp_path / "state.zip", capture_state(original))
    state = load_tree(tmp_path / "state.zip")
    assert state["unknown"] == []
    restore_state(copy, state)
    assert np.array_equal(copy.unwrapped.goal, original.unwrapped.goal)
    assert np.array_equal(copy.unwrapped.model.site_pos, original.unwrapped.model.site_pos)
    for action in actions[20:]:
        one, other = original.step(action), copy.step(action)
        assert np.array_equal(one[0], other[0])
        assert one[1:4] == other[1:4]
    assert np.array_equal(original.reset()[0], copy.reset()[0])
