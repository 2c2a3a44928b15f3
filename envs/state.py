"""Saving and restoring the exact state of Gymnasium environments, so that a resumed run repeats itself bit for bit.

Gymnasium has no interface for this. What an environment can change is found in three places: the arrays of its
``MjData`` (all of them: rewards may read quantities that lag the physics by a substep), the plain attributes of the
environment and of each wrapper (elapsed steps, for example), and its random generator. An environment inside the
environment, as in the mazes of gymnasium-robotics, is saved with it in the same way. An environment that keeps state
elsewhere, such as Box2D bodies, is recognised and reported as not exact.

Gymnasium's wrappers that only check what goes through them hold nothing of an episode and do not count: ``gym.make`` of
a user has one more of them than ours.

The model is not saved. An environment or wrapper that changes it keeps what it has drawn in plain attributes and has a
method ``restored()``, without arguments, which is called after everything else is restored and applies them again.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np

from r2vpo.runs.checkpoint import generator_state, restore_generator

_NEVER_STATE = {"env", "_saved_kwargs", "_np_random", "spec", "_cached_spec", "metadata", "_metadata", "model", "data"}
# How an environment was made, which may name files of this process.
_NEVER_STATE |= {"fullpath", "tmp_xml_file_path", "_ezpickle_args", "_ezpickle_kwargs"}
_STATIC_TYPES = (
    gym.spaces.Space,
    gym.envs.registration.EnvSpec,
    types.FunctionType,
    types.MethodType,
    types.ModuleType,
    type,
)
_CHECKERS = (gym.wrappers.OrderEnforcing, gym.wrappers.PassiveEnvChecker)
_ATTRIBUTES_OF_CHECKERS = ({"_disable_render_order_enforcing"}, {"checked_reset", "checked_step", "checked_render"})
"""By which their layers are known in states that still have them."""
_STATIC_MODULES = (
    "gymnasium.envs.mujoco.mujoco_rendering",
    "gymnasium_robotics.envs.maze.maze",
    "gymnasium_robotics.envs.maze.maze_v4",
    "gymnasium_robotics.utils.mujoco_utils",
)


def capture_state(env: gym.Env) -> dict[str, Any]:
    """State of one environment as plain values and arrays, for :func:`r2vpo.runs.checkpoint.save_tree`.

    Returns:
        ``layers`` (attributes, outermost wrapper first), ``physics`` (bytes of ``MjData``, uint8, or None),
        ``random``, ``unknown`` (attributes that could not be captured; empty when the capture is exact) and, where
        the environment has others inside, ``inner`` (their states by attribute).
    """
    layers, unknown = [], []
    inside = _inner(env)
    for layer in _layers(env):
        kept = {}
        for name, value in vars(layer).items():
            if name in _NEVER_STATE or _is_static(value) or any(value is other for other in inside.values()):
                continue
            if _is_plain(value):
                kept[name] = copy.deepcopy(value)
            else:
                unknown.append(f"{type(layer).__name__}.{name}")
        layers.append(kept)
    inner = {name: capture_state(other) for name, other in inside.items()}
    for state in inner.values():
        unknown += state["unknown"]
    return {
        "layers": layers,
        "physics": _pack_physics(env),
        "random": generator_state(env.unwrapped.np_random),
        "unknown": unknown,
        **({"inner": inner} if inner else {}),
    }


def restore_state(env: gym.Env, state: dict[str, Any]) -> None:
    """Put an environment, made the same way and reset once, into a state from :func:`capture_state`.

    Raises:
        ValueError: The environment differs from the captured one (other wrappers, another model).
    """
    layers: list[Any] = list(_layers(env))
    saved = [layer for layer in state["layers"] if not any(names <= layer.keys() for names in _ATTRIBUTES_OF_CHECKERS)]
    inside = _inner(env)
    if inside.keys() != state.get("inner", {}).keys():
        raise ValueError("one of the environments has another environment inside and the other has not")
    if len(layers) != len(saved):
        raise ValueError(f"the environment has {len(layers)} layers of wrappers, the saved one {len(saved)}")
    for layer, attributes in zip(layers, saved, strict=True):
        vars(layer).update(copy.deepcopy(attributes))
    _unpack_physics(env, state["physics"])
    restore_generator(env.unwrapped.np_random, state["random"])
    for name, other in inside.items():
        restore_state(other, state["inner"][name])
    for layer in layers:
        if callable(getattr(type(layer), "restored", None)):
            layer.restored()


def _layers(env: gym.Env) -> Iterator[gym.Env]:
    """Wrappers, outermost first, and the environment inside; what only checks is left out."""
    while isinstance(env, gym.Wrapper):
        if not isinstance(env, _CHECKERS):
            yield env
        env = env.env
    yield env


def _base(env: gym.Env) -> Any:
    """The innermost environment, which may have more than Gymnasium's class says."""
    return env.unwrapped


def _inner(env: gym.Env) -> dict[str, gym.Env]:
    """Environments that the innermost one has as attributes."""
    base = env.unwrapped
    return {name: value for name, value in vars(base).items() if isinstance(value, gym.Env) and value is not base}


def _is_plain(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return not value.dtype.hasobject
    if isinstance(value, list | tuple):
        return type(value) in (list, tuple) and all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str | int) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, bool | int | float | str | np.generic)


def _is_static(value: Any) -> bool:
    return isinstance(value, _STATIC_TYPES) or type(value).__module__ in _STATIC_MODULES


def _physics_fields(env: gym.Env) -> list[str]:
    """Arrays of MjData whose size the model fixes; the others are scratch space, refilled at every step."""
    import mujoco

    fresh = mujoco.MjData(_base(env).model)
    names = (name for name in dir(fresh) if not name.startswith("_"))
    arrays = ((name, getattr(fresh, name)) for name in names)
    return [name for name, value in arrays if isinstance(value, np.ndarray) and value.size]


def _is_mujoco(env: gym.Env) -> bool:
    """Whether the environment has an ``MjData`` of its own, not that of an environment inside."""
    data = getattr(env.unwrapped, "data", None)
    if type(data).__name__ != "MjData":
        return False
    return all(getattr(other.unwrapped, "data", None) is not data for other in _inner(env).values())


def _pack_physics(env: gym.Env) -> dict[str, Any] | None:
    if not _is_mujoco(env):
        return None
    data = _base(env).data
    packed = [np.frombuffer(getattr(data, name).tobytes(), dtype=np.uint8) for name in _physics_fields(env)]
    return {"bytes": np.concatenate(packed), "time": float(data.time)}


def _unpack_physics(env: gym.Env, packed: dict[str, Any] | None) -> None:
    if (packed is not None) != _is_mujoco(env):
        raise ValueError("one of the environments is a MuJoCo environment and the other is not")
    if packed is None:
        return
    data = _base(env).data
    arrays = [getattr(data, name) for name in _physics_fields(env)]
    if sum(array.nbytes for array in arrays) != len(packed["bytes"]):
        raise ValueError("the MuJoCo model or version differs from the saved one")
    offset = 0
    for array in arrays:
        stored = packed["bytes"][offset : offset + array.nbytes]
        array[...] = np.frombuffer(stored.tobytes(), dtype=array.dtype).reshape(array.shape)
        offset += array.nbytes
    data.time = packed["time"]
