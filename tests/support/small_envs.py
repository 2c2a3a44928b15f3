"""Environments small enough to reason about, for tests."""

import gymnasium as gym
import numpy as np


class IdentityEnv(gym.Env):
    """The best action repeats the observation; an episode of ten steps then returns 0."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self):
        self.steps = 0
        self.state = np.zeros(2, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._draw(), {}

    def step(self, action):
        reward = -float(np.abs(action - self.state).sum())
        self.steps += 1
        return self._draw(), reward, False, self.steps >= 10, {}

    def _draw(self):
        self.state = self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)
        return self.state


class FailingEnv(IdentityEnv):
    """Fails in the chosen way at the 30th step of its life."""

    def __init__(self, failure="raise"):
        super().__init__()
        self.failure = failure
        self.lifetime = 0

    def step(self, action):
        self.lifetime += 1
        observation, reward, terminated, truncated, info = super().step(action)
        if self.lifetime == 30:
            if self.failure == "raise":
                raise RuntimeError("the simulator is gone")
            if self.failure == "nan reward":
                reward = float("nan")
            if self.failure == "nan observation":
                observation = np.full(2, np.nan, np.float32)
        return observation, reward, terminated, truncated, info


class CountingEnv(gym.Env):
    """Observation is the step within the episode; terminates or truncates on a script."""

    observation_space = gym.spaces.Box(-1e6, 1e6, (1,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, length=3, end="terminate"):
        self.length, self.end, self.steps, self.episode = length, end, 0, -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.episode = 0, self.episode + 1
        return self._observe(), {}

    def step(self, action):
        self.steps += 1
        over = self.steps >= self.length
        return self._observe(), 1.0, over and self.end == "terminate", over and self.end == "truncate", {}

    def _observe(self):
        return np.array([100.0 * self.episode + self.steps], np.float32)


class BufferedEnv(IdentityEnv):
    """Answers in arrays that all instances share and that every call overwrites; scribbles on its actions."""

    observations, reward = np.zeros(2, np.float32), np.zeros(())
    terminated, truncated, info = np.zeros(1, bool), np.zeros(1, bool), {}

    def reset(self, *, seed=None, options=None):
        self.observations[:], _ = super().reset(seed=seed)
        self.info.clear()
        return self.observations, self.info

    def step(self, action):
        self.observations[:], self.reward[...], self.terminated[:], self.truncated[:], _ = super().step(action)
        action[:] = np.nan
        return self.observations, self.reward, self.terminated, self.truncated, self.info
