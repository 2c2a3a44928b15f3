"""The tasks of gymnasium-robotics by name: registered when one is asked for, with flat observations."""

from __future__ import annotations

import re
import sys

import gymnasium as gym

from r2vpo.errors import ConfigError

PACKAGE = "gymnasium_robotics"
_FAMILIES = re.compile(r"(AntMaze|PointMaze|Fetch|HandReach|HandManipulate|AdroitHand|FrankaKitchen)[A-Za-z_0-9]*-v\d+")
_POSITION_OBSERVED = "PointMaze"
"""The family whose ``achieved_goal`` is part of ``observation``."""

_GOAL_KEYS = {"observation", "achieved_goal", "desired_goal"}


class MazeMarker(gym.Wrapper):
    """Keeps the mark of a maze's goal, which is part of its model, where the goal is."""

    def restored(self) -> None:
        """Move the mark to the goal of a restored state; see :mod:`r2vpo.envs.state`."""
        self.unwrapped.update_target_site_pos()  # type: ignore[attr-defined]


def register_robotics(env_id: str) -> None:
    """Register the tasks of gymnasium-robotics if ``env_id`` is unknown and looks like one of them.

    Raises:
        ConfigError: It does, and the package is not installed.
    """
    if sys.modules.get(PACKAGE) or not _FAMILIES.fullmatch(env_id):
        return
    known = gym.registry.get(env_id)
    if known is not None and not _is_theirs(known):
        return
    # A process that collects is handed this one registration; the package would warn that it is there.
    gym.registry.pop(env_id, None)
    try:
        import gymnasium_robotics
    except ModuleNotFoundError as error:
        if error.name != PACKAGE:
            raise
        install = 'pip install "r2vpo[robotics]"'
        raise ConfigError("env", env_id, f"installed; it belongs to gymnasium-robotics ({install})") from error
    gym.register_envs(gymnasium_robotics)


def flatten_goal(env: gym.Env) -> gym.Env:
    """Turn the Dict observations of a goal-conditioned task of gymnasium-robotics into flat vectors.

    The vector holds ``achieved_goal``, ``desired_goal`` and ``observation`` in this order; the first is left out where
    the last contains it, which is so in PointMaze.

    Returns:
        The wrapped environment, or ``env`` itself where it is none of these tasks.
    """
    spec, space = env.spec, env.observation_space
    if spec is None or not _is_theirs(spec):
        return env
    if not isinstance(space, gym.spaces.Dict) or set(space.spaces) != _GOAL_KEYS:
        return env
    keys = sorted(_GOAL_KEYS - ({"achieved_goal"} if spec.name.startswith(_POSITION_OBSERVED) else set()))
    if hasattr(env.unwrapped, "update_target_site_pos"):
        env = MazeMarker(env)
    return gym.wrappers.FlattenObservation(gym.wrappers.FilterObservation(env, keys))


def _is_theirs(spec: gym.envs.registration.EnvSpec) -> bool:
    return str(spec.entry_point).startswith(PACKAGE + ".")
