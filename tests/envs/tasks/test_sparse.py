"""The sparse tasks: rewards and success by hand."""

import numpy as np
import pytest
from control_tasks import CHEETAH, REACHER, SWING_UP, place, plain, zero

from r2vpo.envs.making import make_env


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
