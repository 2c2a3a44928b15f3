"""Every control task: its row in the table, Gymnasium's checker, seeds, time limit, arguments, rendering."""

import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from control_tasks import CHEETAH, GUST, IDS, REACHER, SHIFT, SWING_UP, play, zero
from gymnasium.utils.env_checker import check_env

from r2vpo.envs.engines import make_vector_env
from r2vpo.envs.making import make_env, require_box_spaces
from r2vpo.envs.native.table import reason_against
from r2vpo.envs.tasks import TASKS, markdown_table
from r2vpo.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
INFINITE_BOX = "A Box observation space m(ax|in)imum value is -?infinity"


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.id)
def test_table_agrees_with_the_environments(task):
    env = make_env(task.id)
    require_box_spaces(env)
    assert env.observation_space.shape == (task.observations,)
    assert env.action_space.shape == (task.actions,)
    _, info = env.reset(seed=0)
    assert env.spec.id == task.id
    assert env.spec.max_episode_steps == task.time_limit
    info = env.step(zero(env))[4]
    assert ("is_success" in info) == bool(task.success)
    assert type(info.get("is_success", False)) is bool


def test_documentation_holds_the_table():
    assert markdown_table() in (ROOT / "docs" / "tasks.md").read_text()


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_finds_nothing_wrong(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", f".*{INFINITE_BOX}")
        check_env(make_env(env_id).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("env_id", IDS)
def test_equal_seeds_give_equal_episodes_and_others_do_not(env_id):
    seen = []
    for seed in (4, 4, 5):
        env = make_env(env_id)
        env.reset(seed=seed)
        seen.append(play(env, 150))
    assert np.array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2])


def test_episode_is_cut_at_the_limit():
    env = make_env(REACHER)
    env.reset(seed=0)
    assert [env.step(zero(env))[3] for _ in range(50)] == [False] * 49 + [True]


@pytest.mark.parametrize("env_id", IDS)
def test_native_engine_leaves_them_to_gymnasium(env_id):
    assert reason_against(env_id) == f"there is no vectorised code for {env_id}"
    envs = make_vector_env(env_id, 2)
    assert (envs.engine, envs.engine_reason) == ("gymnasium", reason_against(env_id))


@pytest.mark.parametrize("env_id", IDS)
def test_pickled_environment_keeps_its_arguments(env_id):
    name, value = {
        CHEETAH: ("threshold", 2.0),
        REACHER: ("radius", 0.1),
        SWING_UP: ("reach", 0.5),
        SHIFT: ("ranges", {"mass": (2.0, 2.0), "friction": (0.5, 1.5), "gravity": (0.8, 1.2)}),
        GUST: ("size", (1.0, 2.0)),
    }[env_id]
    env = make_env(env_id, **({"mass": (2.0, 2.0)} if env_id == SHIFT else {name: value})).unwrapped
    assert getattr(pickle.loads(pickle.dumps(env)), name) == value


@pytest.mark.parametrize(
    ("env_id", "field", "value"),
    [
        (CHEETAH, "threshold", 0.0),
        (REACHER, "radius", float("nan")),
        (SWING_UP, "angle", 180.0),
        (SWING_UP, "hold", 0),
        (SHIFT, "mass", (1.3, 0.7)),
        (SHIFT, "gravity", (0.0, 1.0)),
        (GUST, "size", (1.0, float("inf"))),
        (GUST, "calm", (0.5, 2)),
    ],
)
def test_bad_arguments_are_named(env_id, field, value):
    with pytest.raises(ConfigError, match=field):
        make_env(env_id, **{field: value})


def test_every_task_renders():
    code = (
        "import mujoco, numpy as np, sys\n"
        "mujoco.GLContext(64, 64)\n"
        "print('can render')\n"
        "from r2vpo.envs.making import make_env\n"
        "for env_id in sys.argv[1:]:\n"
        "    env = make_env(env_id, render_mode='rgb_array')\n"
        "    env.reset(seed=0)\n"
        "    frame = env.render()\n"
        "    assert frame.shape == (480, 480, 3) and frame.dtype == np.uint8 and frame.std() > 5, env_id\n"
        "    env.close()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *IDS],
        env={**os.environ, "MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl")},
        capture_output=True,
        text=True,
    )
    if "can render" not in result.stdout:
        pytest.skip("this machine cannot render off screen")
    assert result.returncode == 0, result.stderr
