"""Environments side by side: each as if it were alone."""

import gymnasium as gym
import numpy as np
import pytest
from small_envs import CountingEnv

from r2vpo.envs.making import make_env
from r2vpo.envs.vector import VectorEnv
from r2vpo.errors import ConfigError


def random_actions(env, count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.uniform(env.action_space.low, env.action_space.high).astype(np.float32) for _ in range(count)]


def test_vector_steps_equal_single_environments():
    vector = VectorEnv("Hopper-v5", 3)
    singles = [make_env("Hopper-v5") for _ in range(3)]
    seeds = np.random.SeedSequence(5).generate_state(3)
    first = [env.reset(seed=int(seed))[0] for env, seed in zip(singles, seeds, strict=True)]
    assert np.array_equal(vector.reset(5), first)
    ended = 0
    for t in range(120):
        actions = np.stack(random_actions(singles[0], 3, seed=t))
        step = vector.step(actions)
        for i, env in enumerate(singles):
            observation, reward, terminated, truncated, _ = env.step(actions[i])
            assert (step.rewards[i], step.terminated[i], step.truncated[i]) == (reward, terminated, truncated)
            if terminated or truncated:
                ended += 1
                assert np.array_equal(step.final_observations[i], observation)
                observation = env.reset()[0]
            else:
                assert i not in step.final_observations
            assert np.array_equal(step.observations[i], observation)
    assert ended > 3


def test_environments_of_neighbouring_seeds_differ():
    observations = np.concatenate([VectorEnv("Hopper-v5", 4).reset(seed) for seed in (0, 1, 2)])
    assert len(np.unique(observations, axis=0)) == 12


def test_one_environment_object_cannot_be_many():
    with pytest.raises(ConfigError, match="num_envs=2"):
        VectorEnv(CountingEnv(), 2)


def test_a_function_that_returns_one_environment_twice_is_refused():
    shared = CountingEnv()
    with pytest.raises(ConfigError, match="one object twice"):
        VectorEnv(lambda: shared, 2)
    with pytest.raises(ConfigError, match="one object twice"):
        VectorEnv(lambda: gym.wrappers.TimeLimit(shared, 5), 2)


class OneBuffer(CountingEnv):
    """Writes every observation into the same array."""

    buffer = None

    def _observe(self):
        self.buffer = np.zeros(1, np.float32) if self.buffer is None else self.buffer
        self.buffer[:] = super()._observe()
        return self.buffer


def test_the_reset_does_not_overwrite_a_final_observation():
    envs = VectorEnv(OneBuffer, 2)
    envs.reset(0)
    steps = [envs.step(np.zeros((2, 1), np.float32)) for _ in range(4)]
    # Three steps to an episode: it ends at 3, and the next one, episode 1, begins at 100.
    assert [float(step.observations[0, 0]) for step in steps] == [1, 2, 100, 101]
    assert {i: final.tolist() for i, final in steps[2].final_observations.items()} == {0: [3.0], 1: [3.0]}
