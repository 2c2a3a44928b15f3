"""Our control tasks: rewards by hand, success both ways, random draws, and exact restoring with a changed model."""

import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from r2vpo.checkpoint import load_tree, save_tree
from r2vpo.envs.engines import make_vector_env
from r2vpo.envs.making import make_env, require_box_spaces
from r2vpo.envs.native.table import reason_against
from r2vpo.envs.state import capture_state, restore_state
from r2vpo.envs.tasks import TASKS, markdown_table, register_tasks
from r2vpo.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
OURS = [task for task in TASKS if task.id.startswith("r2vpo/")]
IDS = [task.id for task in OURS]
CHEETAH, REACHER, SWING_UP, SHIFT, GUST = IDS
INFINITE_BOX = "A Box observation space m(ax|in)imum value is -?infinity"


def plain(env_id, seed=0, **kwargs):
    """The environment without wrappers, reset."""
    env = make_env(env_id, **kwargs).unwrapped
    env.reset(seed=seed)
    return env


def play(env, count, seed=0):
    """Everything an agent sees in steps with random actions, resets included."""
    rng, seen = np.random.default_rng(seed), []
    for _ in range(count):
        action = rng.uniform(env.action_space.low, env.action_space.high).astype(np.float32)
        observation, reward, terminated, truncated, info = env.step(action)
        seen += [observation, [reward, terminated, truncated, info["is_success"]]]
        if terminated or truncated:
            seen.append(env.reset()[0])
    return np.concatenate(seen)


def place(env, positions, velocities=None):
    """Set the state: joint positions by index, everything else 0."""
    qpos, qvel = np.zeros(env.model.nq), np.zeros(env.model.nv)
    for index, value in positions.items():
        qpos[index] = value
    if velocities is not None:
        qvel[:] = velocities
    env.set_state(qpos, qvel)


def zero(env):
    return np.zeros(env.action_space.shape, np.float32)


def model_arrays(model):
    values = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
    arrays = {name: value.copy() for name, value in values.items() if isinstance(value, np.ndarray)}
    return {**arrays, "gravity": model.opt.gravity.copy(), "meaninertia": np.array(model.stat.meaninertia)}


def assert_same_arrays(one, other):
    assert [name for name in one if not np.array_equal(one[name], other[name])] == []


# All of them


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.id)
def test_table_agrees_with_the_environments(task):
    env = make_env(task.id)
    require_box_spaces(env)
    assert env.observation_space.shape == (task.observations,)
    assert env.action_space.shape == (task.actions,)
    _, info = env.reset(seed=0)
    assert env.spec.id == task.id
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


@pytest.mark.parametrize(
    ("env_id", "steps"), [(CHEETAH, 1000), (REACHER, 50), (SWING_UP, 500), (SHIFT, 1000), (GUST, 1000)]
)
def test_time_limit(env_id, steps):
    assert make_env(env_id).spec.max_episode_steps == steps


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


# Registration


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


# Sparse rewards


def test_cheetah_is_rewarded_beyond_five_metres_from_its_start():
    env = plain(CHEETAH)
    assert abs(env.start) <= 0.1
    assert env.start != 0
    for distance, reward in ((4.9, 0.0), (5.1, 1.0), (-5.1, 0.0)):
        place(env, {0: env.start + distance})
        observation, found, terminated, truncated, info = env.step(zero(env))
        assert (found, terminated, truncated, info["is_success"]) == (reward, False, False, reward == 1.0)
        assert observation[0] == pytest.approx(distance, abs=0.05)
        assert observation[0] == env.data.qpos[0] - env.start
        assert np.array_equal(observation[1:], np.concatenate([env.data.qpos[1:], env.data.qvel]))


def test_cheetah_pays_nothing_for_control():
    env = plain(CHEETAH)
    place(env, {0: env.start + 8.0})
    assert env.step(np.ones(6, np.float32))[1] == 1.0


@pytest.mark.parametrize(("target", "reward"), [(0.201, 1.0), (0.22, 1.0), (0.18, 0.0), (0.24, 0.0)])
def test_reacher_is_rewarded_where_the_balls_touch(target, reward):
    env = plain(REACHER)
    place(env, {2: target})  # the stretched arm ends at (0.21, 0)
    observation, found, terminated, truncated, info = env.step(zero(env))
    assert (found, terminated, truncated) == (reward, False, False)
    assert info == {"is_success": reward == 1.0}
    assert np.linalg.norm(observation[8:10]) == pytest.approx(abs(0.21 - target))


def test_pole_hangs_down_at_the_start():
    for seed in range(5):
        observation, _ = make_env(SWING_UP).reset(seed=seed)
        assert abs(observation[0]) <= 0.05
        assert observation[1] <= np.cos(np.pi - 0.05)
        assert np.all(np.abs(observation[3:]) <= 0.05)


@pytest.mark.parametrize(
    ("x", "degrees", "reward"),
    [(0, 0, 1), (0.99, -14, 1), (0, 14, 1), (0, 374, 1), (0, 17, 0), (0, -17, 0), (0, 180, 0), (1.02, 0, 0)],
)
def test_pole_is_rewarded_upright_near_the_middle(x, degrees, reward):
    env = plain(SWING_UP)
    place(env, {0: x, 1: np.radians(degrees)})
    observation, found, terminated, truncated, _ = env.step(zero(env))
    assert (found, terminated, truncated) == (reward, False, False)
    angle = env.data.qpos[1]
    assert observation == pytest.approx([env.data.qpos[0], np.cos(angle), np.sin(angle), *env.data.qvel])


def test_pole_swings_as_a_rod_does():
    env = plain(SWING_UP)
    place(env, {1: np.radians(90)})
    height = 0.4  # of the centre, along the rod
    for _ in range(8):
        env.step(zero(env))
    angle = env.data.qpos[1]
    assert angle > np.radians(90)
    speed, turning = env.data.qvel
    model, pole = env.model, env.model.body("pole").id
    assert model.body_mass[pole] == pytest.approx(0.2)
    along, up = speed + height * turning * np.cos(angle), -height * turning * np.sin(angle)
    about_centre = model.body_inertia[pole].max()
    kinetic = 0.5 * speed**2 + 0.1 * (along**2 + up**2) + 0.5 * about_centre * turning**2
    potential = 0.2 * 9.81 * height * np.cos(angle)
    assert kinetic + potential == pytest.approx(0.0, abs=0.01)  # less what the joints' damping takes
    assert kinetic > 0.1


def test_swing_up_succeeds_upright_for_the_last_steps():
    env = plain(SWING_UP, hold=3)
    success = []
    for degrees in (0, 0, 0, 0, 90, 0, 0, 0):
        place(env, {1: np.radians(degrees)})
        success.append(env.step(zero(env))[4]["is_success"])
    assert success == [False, False, True, True, False, False, False, True]
    env.reset()
    assert env.upright_steps == 0


# Changing dynamics


@pytest.mark.parametrize("env_id", [SHIFT, GUST])
def test_success_is_to_be_healthy_at_the_end(env_id):
    env = plain(env_id)
    place(env, {1: 1.25})
    assert env.step(zero(env))[4]["is_success"] is True
    place(env, {1: 1.25, 2: 1.2})
    _, _, terminated, _, info = env.step(zero(env))
    assert (terminated, info["is_success"]) == (True, False)
    cut = gym.wrappers.TimeLimit(env, 3)
    cut.reset(seed=0)
    steps = [cut.step(zero(env)) for _ in range(3)]
    assert [truncated for _, _, _, truncated, _ in steps] == [False, False, True]
    assert steps[-1][4]["is_success"]


@pytest.mark.parametrize("env_id", [SHIFT, GUST])
def test_reward_is_speed_and_health_less_control(env_id):
    env = plain(env_id)
    place(env, {1: 2.0 if env_id == SHIFT else 1.9}, np.eye(env.model.nv)[0] * 1.5)
    action = np.full(env.action_space.shape, 0.5, np.float32)
    _, reward, _, _, _ = env.step(action)
    assert reward == pytest.approx(env.data.qpos[0] / 0.008 + 1.0 - 1e-3 * 0.25 * len(action))


def test_factors_are_drawn_within_their_ranges_anew_in_each_episode():
    env, same = make_env(SHIFT), make_env(SHIFT)
    draws = []
    for episode in range(200):
        infos = [e.reset(seed=1 if episode == 0 else None)[1] for e in (env, same)]
        assert infos[0] == infos[1]
        draws.append([infos[0][f"{name}_factor"] for name in ("mass", "friction", "gravity")])
    low, high = np.min(draws, 0), np.max(draws, 0)
    assert np.all(low >= [0.7, 0.5, 0.8])
    assert np.all(high <= [1.3, 1.5, 1.2])
    assert np.all(high - low > 0.9 * np.array([0.6, 1.0, 0.4]))
    assert len(np.unique(draws, axis=0)) == 200
    assert np.all(np.abs(np.corrcoef(draws, rowvar=False) - np.eye(3)) < 0.3)


def test_model_follows_the_factors_and_never_compounds():
    nominal, env = make_env("Hopper-v5").unwrapped.model, plain(SHIFT)
    for _ in range(3):
        env.reset()
        model, factors = env.model, env.factors
        assert model.body_mass == pytest.approx(nominal.body_mass * factors["mass"], rel=1e-12)
        assert model.body_inertia == pytest.approx(nominal.body_inertia * factors["mass"], rel=1e-12)
        assert model.body_subtreemass == pytest.approx(nominal.body_subtreemass * factors["mass"], rel=1e-12)
        assert model.geom_friction[:, 0] == pytest.approx(nominal.geom_friction[:, 0] * factors["friction"], rel=1e-12)
        assert np.array_equal(model.geom_friction[:, 1:], nominal.geom_friction[:, 1:])
        assert model.opt.gravity == pytest.approx([0, 0, -9.81 * factors["gravity"]], rel=1e-12)
    still = plain(SHIFT, mass=(1.0, 1.0), friction=(1.0, 1.0), gravity=(1.0, 1.0))
    assert_same_arrays(model_arrays(still.model), model_arrays(nominal))


def test_same_factors_give_the_same_model_whatever_came_before():
    env, fresh = plain(SHIFT, seed=1), plain(SHIFT, seed=7)
    for _ in range(5):
        env.reset()
    env.reset(seed=7)
    assert_same_arrays(model_arrays(env.model), model_arrays(fresh.model))


def test_environments_do_not_share_a_model():
    one, other = plain(SHIFT, seed=1), plain(SHIFT, seed=2)
    before = model_arrays(one.model)
    other.reset(seed=3)
    assert_same_arrays(model_arrays(one.model), before)
    assert not np.array_equal(one.model.body_mass, other.model.body_mass)
    assert make_env("Hopper-v5").unwrapped.model.body_mass.sum() == pytest.approx(15.82, abs=0.01)


def test_hopper_falls_with_its_gravity():
    env = plain(SHIFT)
    place(env, {1: 4.0})
    env.step(zero(env))
    # 4 steps of 2 ms; the joints only have to hold what falls with them.
    assert env.data.qvel[1] == pytest.approx(-9.81 * env.factors["gravity"] * 0.008, rel=1e-6)


def next_gust(env):
    """Step until a gust blows; the walker hovers out of reach of the floor."""
    while env.force == 0.0:
        place(env, {1: 1.9})
        env.step(zero(env))


def test_gust_accelerates_the_walker_as_its_mass_says():
    env = plain(GUST)
    next_gust(env)
    torso = env.model.body("torso").id
    place(env, {1: 1.9})
    info = env.step(zero(env))[4]
    assert info["force"] == env.data.xfrc_applied[torso, 0] == env.gust_force
    mujoco.mj_forward(env.model, env.data)  # velocities of bodies lag those of joints by a substep
    mujoco.mj_subtreeVel(env.model, env.data)
    momentum = env.data.subtree_linvel[torso, 0] * env.model.body_subtreemass[torso]
    assert env.model.body_subtreemass[torso] == pytest.approx(23.68, abs=0.01)
    assert momentum == pytest.approx(env.gust_force * 0.008, rel=1e-6)


def test_gusts_come_and_go_at_random():
    env, same = plain(GUST, seed=3), plain(GUST, seed=3)
    forces = []
    for _ in range(6000):
        for e in (env, same):
            place(e, {1: 1.9})
        forces.append(env.step(zero(env))[4]["force"])
        assert same.step(zero(same))[4]["force"] == forces[-1]
    forces = np.array(forces)
    blowing = forces != 0
    edges = np.flatnonzero(np.diff(blowing)) + 1
    calm = np.append(edges[0], edges[2::2] - edges[1:-1:2][: len(edges[2::2])])
    length = edges[1::2] - edges[0::2][: len(edges[1::2])]
    assert calm.min() >= 25
    assert calm.max() <= 150
    assert length.min() >= 5
    assert length.max() <= 25
    size = np.abs(forces[blowing])
    assert size.min() >= 40
    assert size.max() <= 120
    assert 0.2 < np.mean(forces[edges[0::2]] > 0) < 0.8
    assert len(np.unique(forces[edges[0::2]])) == len(edges[0::2]) > 30
    assert len(np.unique(length)) > 8


def test_no_gust_outlives_its_episode():
    env = plain(GUST)
    starts = set()
    for _ in range(5):
        next_gust(env)
        starts.add(env.gust_start)
        env.reset()
        assert env.force == 0.0
        assert not env.data.xfrc_applied.any()
    assert len(starts) > 1


# Exact restoring


def halfway(env_id, seed):
    env = make_env(env_id)
    env.reset(seed=seed)
    if env_id == GUST:
        next_gust(env.unwrapped)
        env.step(zero(env))
        assert env.unwrapped.force != 0.0
    else:
        play(env, 37, seed)
    return env


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("seeds", [(3, 8), (8, 3)])
def test_restored_environment_repeats_the_original_bit_for_bit(env_id, seeds, tmp_path):
    original, copy = (halfway(env_id, seed) for seed in seeds)
    save_tree(tmp_path / "state.zip", capture_state(original))
    state = load_tree(tmp_path / "state.zip")
    assert state["unknown"] == []
    restore_state(copy, state)
    if env_id == SHIFT:
        assert copy.unwrapped.factors == original.unwrapped.factors
        assert_same_arrays(model_arrays(copy.unwrapped.model), model_arrays(original.unwrapped.model))
    if env_id == GUST:
        assert copy.unwrapped.force == original.unwrapped.force != 0.0
    assert np.array_equal(play(original, 150, seed=1), play(copy, 150, seed=1))


def test_restoring_without_the_hook_would_differ(monkeypatch):
    original, copy = halfway(SHIFT, 3), halfway(SHIFT, 8)
    monkeypatch.setattr(type(copy.unwrapped), "restored", lambda self: None)
    restore_state(copy, capture_state(original))
    assert not np.array_equal(play(original, 10, seed=1), play(copy, 10, seed=1))


# gymnasium-robotics


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
