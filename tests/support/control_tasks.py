"""Our control tasks by name, and what their tests do with them."""

import numpy as np

from r2vpo.envs.making import make_env
from r2vpo.envs.tasks import TASKS

OURS = [task for task in TASKS if task.id.startswith("r2vpo/")]
IDS = [task.id for task in OURS]
CHEETAH, REACHER, SWING_UP, SHIFT, GUST = IDS


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


def next_gust(env):
    """Step until a gust blows; the walker hovers out of reach of the floor."""
    while env.force == 0.0:
        place(env, {1: 1.9})
        env.step(zero(env))
