"""Which tasks the native engine covers, and the checks that what Gymnasium makes is still what it covers."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from r2vpo.envs.native import bodies, reach_and_balance, runners
from r2vpo.envs.native.simulations import Simulations, Task
from r2vpo.errors import ConfigError

_GYMNASIUM = "gymnasium.envs.mujoco."
_TASKS: dict[str, tuple[str, type[Task]]] = {
    "HalfCheetah-v5": ("half_cheetah_v5:HalfCheetahEnv", runners.HalfCheetah),
    "Hopper-v5": ("hopper_v5:HopperEnv", runners.Hopper),
    "Walker2d-v5": ("walker2d_v5:Walker2dEnv", runners.Walker2d),
    "Swimmer-v5": ("swimmer_v5:SwimmerEnv", runners.Swimmer),
    "InvertedPendulum-v5": ("inverted_pendulum_v5:InvertedPendulumEnv", reach_and_balance.InvertedPendulum),
    "InvertedDoublePendulum-v5": (
        "inverted_double_pendulum_v5:InvertedDoublePendulumEnv",
        reach_and_balance.InvertedDoublePendulum,
    ),
    "Reacher-v5": ("reacher_v5:ReacherEnv", reach_and_balance.Reacher),
    "Pusher-v5": ("pusher_v5:PusherEnv", reach_and_balance.Pusher),
    "Ant-v5": ("ant_v5:AntEnv", bodies.Ant),
    "Humanoid-v5": ("humanoid_v5:HumanoidEnv", bodies.Humanoid),
    "HumanoidStandup-v5": ("humanoidstandup_v5:HumanoidStandupEnv", bodies.HumanoidStandup),
}
"""Id: the Gymnasium class that its task reproduces, and the task."""

_TRIAL_STEPS = 8
_TRIAL_TOLERANCE = 1e-6
"""Far above rounding (NumPy 1 rounds the cost of control differently) and far below any change of definition."""


class NotNative(ConfigError):
    """The native engine does not cover this environment. ``reason`` says why in a few words."""

    def __init__(self, env: object, reason: str) -> None:
        super().__init__("env", env, f"one of {', '.join(native_tasks())} for the native engine ({reason})")
        self.reason = reason


def native_tasks() -> tuple[str, ...]:
    """Ids that the native engine knows."""
    return tuple(_TASKS)


def supports(env_id: object) -> bool:
    """Whether the native engine runs this id as it is registered with Gymnasium now."""
    return reason_against(env_id) is None


def reason_against(env_id: object) -> str | None:
    """Why the native engine does not run this environment, or None if it does."""
    if not isinstance(env_id, str):
        return "it is made by the caller's own code"
    if env_id not in _TASKS:
        return f"there is no vectorised code for {env_id}"
    spec = gym.registry.get(env_id)
    if spec is None or spec.entry_point != _GYMNASIUM + _TASKS[env_id][0]:
        return f"{env_id} is not registered with Gymnasium's own class"
    if spec.kwargs or spec.additional_wrappers or not spec.max_episode_steps:
        return f"{env_id} is registered with arguments, wrappers or no time limit"
    return None


def task_class(env_id: str) -> type[Task]:
    """The task behind an id that :func:`supports` accepts."""
    return _TASKS[env_id][1]


def require_agreement(env_id: str, env: gym.Env) -> None:
    """Take a few steps with both and compare, so that another version of Gymnasium cannot differ in silence.

    Args:
        env_id: Native task.
        env: Gymnasium's environment of that id; it is reset.

    Raises:
        NotNative: They differ, or Gymnasium no longer has what the task looks up.
    """
    import mujoco

    made_by = f"Gymnasium {gym.__version__}"
    base: Any = env.unwrapped
    cls = task_class(env_id)
    for switch in cls.required:
        if getattr(base, switch, None) is not True:
            raise NotNative(env_id, f"{made_by} does not set {switch} in it")
    env.reset(seed=0)
    single = Simulations(base.model, 1, contact_forces=cls.reads_contact_forces)
    mujoco.mj_copyData(single.datas[0], base.model, base.data)
    rng = np.random.default_rng(0)
    for _ in range(_TRIAL_STEPS):
        action = rng.uniform(base.action_space.low, base.action_space.high).astype(np.float32)
        try:
            task = cls(base, single)
            before = task.before()
            single.step(action[None], base.frame_skip)
            observations, rewards, terminated = task.after(before, action[None])
        except AttributeError as error:
            raise NotNative(env_id, f"{made_by} lacks something it needs: {error}") from error
        observation, reward, ended, _, _ = base.step(action)
        ours, theirs = np.append(observations[0], rewards[0]), np.append(observation, reward)
        same = ours.shape == theirs.shape and np.allclose(ours, theirs, _TRIAL_TOLERANCE, _TRIAL_TOLERANCE)
        if not same or bool(terminated[0]) != bool(ended):
            raise NotNative(env_id, f"{made_by} computes it in another way")
