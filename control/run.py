"""A control model as one tree of plain values, and back."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from r2vpo.control.config import ControlConfig
from r2vpo.control.presets import config_dict
from r2vpo.errors import CheckpointError, ConfigError
from r2vpo.runs.provenance import package_versions

if TYPE_CHECKING:
    from r2vpo.control.algorithm import R2VPO, AnyCollector

KIND = "r2vpo.control"


def take_snapshot(model: R2VPO, with_environments: bool = True) -> dict[str, Any]:
    """Everything a run needs to go on bit for bit.

    Args:
        model: Between two iterations.
        with_environments: False leaves the environments out, for when one of them has failed: the episodes under
            way are then begun anew.
    """
    if not with_environments:
        environments = None
    elif model.has_environments:
        environments = model.collector.state_dict()
    else:
        environments = model.pending_environments
    spaces = {"observation": model.observation_space, "action": model.action_space}
    return {
        "kind": KIND,
        "versions": package_versions(),
        "config": config_dict(model.config),
        "env_is_id": model.env_is_id,
        "spaces": {name: {"low": space.low, "high": space.high} for name, space in spaces.items()},
        "learner": model.learner.state_dict(),
        "environments": environments,
        "generator": model.generator.get_state(),
        "episodes": {"steps": model.episodes.steps, "returns": model.episodes.returns},
        "counters": {name: getattr(model, name) for name in _COUNTERS},
    }


_COUNTERS = ("num_timesteps", "schedule_start", "train_seconds")


def read_identity(
    tree: dict[str, Any], origin: str
) -> tuple[ControlConfig, tuple[gym.spaces.Box, gym.spaces.Box], bool]:
    """Config, (observation, action) spaces, and whether the environment was given by id.

    Raises:
        CheckpointError: Not a snapshot of a control model, or of a version whose settings differ.
    """
    if tree.get("kind") != KIND:
        raise CheckpointError(f"{origin} holds {tree.get('kind')!r}, not a control model ({KIND!r})")
    try:
        config = ControlConfig(**tree["config"])
        spaces = [
            gym.spaces.Box(bounds["low"], bounds["high"], dtype=bounds["low"].dtype.type)
            for bounds in (tree["spaces"]["observation"], tree["spaces"]["action"])
        ]
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{origin} does not fit this version of the library: {error}") from error
    return config, (spaces[0], spaces[1]), bool(tree["env_is_id"])


def restore_snapshot(model: R2VPO, tree: dict[str, Any], origin: str) -> None:
    """Put a freshly assembled model into a saved state.

    Raises:
        CheckpointError: The saved networks have other shapes, or parts are missing.
    """
    try:
        model.learner.load_state_dict(tree["learner"])
        model.generator.set_state(tree["generator"])
        model.episodes.steps = list(tree["episodes"]["steps"])
        model.episodes.returns = list(tree["episodes"]["returns"])
        for name in _COUNTERS:
            setattr(model, name, tree["counters"][name])
        model.pending_environments = tree["environments"]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{origin} is damaged: {error}") from error


def restore_environments(model: R2VPO, collector: AnyCollector) -> None:
    """Give new environments the saved state, or begin new episodes where there is none."""
    pending, model.pending_environments = model.pending_environments, None
    if pending is None:
        collector.reset(int(np.random.SeedSequence([model.config.seed, model.num_timesteps]).generate_state(1)[0]))
        return
    try:
        unknown = collector.load_state_dict(pending)
    except ValueError as error:
        raise CheckpointError(f"the environments cannot take on the saved state: {error}") from error
    if unknown:
        warnings.warn(
            f"{model.config.env} keeps state that cannot be saved ({', '.join(unknown)}); the run goes on, but not "
            "bit for bit as if it had never stopped",
            stacklevel=2,
        )
