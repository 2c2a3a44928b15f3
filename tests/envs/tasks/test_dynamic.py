"""The tasks whose dynamics change: what is drawn, when, and what it does to the body."""

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from control_tasks import GUST, SHIFT, assert_same_arrays, model_arrays, next_gust, place, plain, zero

from r2vpo.envs.making import make_env


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
