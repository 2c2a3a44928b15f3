"""What a finished run leaves behind: summary.json, the curve, and a video on request."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from r2vpo.control.evaluation import BatchPolicy
from r2vpo.envs.making import EnvSource, make_env

if TYPE_CHECKING:
    pass


def record_video(
    policy: BatchPolicy, env: EnvSource, path: Path, seed: int, max_steps: int = 200, size: int | None = None
) -> Path:
    """Film the first ``max_steps`` steps of one episode as an mp4.

    Args:
        policy: Chooses the actions.
        env: Environment to make and film.
        path: File to write.
        seed: Of the episode.
        max_steps: Frames at most.
        size: Width and height in pixels of a MuJoCo task; as the environment has it when not given, and of other tasks.

    Raises:
        RuntimeError: The environment renders no images.
    """
    import imageio.v2 as imageio

    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    filmed = make_env(env, render_mode="rgb_array", **_camera(env, size))
    try:
        observation, _ = filmed.reset(seed=seed)
        fps = int(filmed.metadata.get("render_fps", 30))
        with imageio.get_writer(path, fps=fps, macro_block_size=16) as writer:
            for _ in range(max_steps):
                frame = filmed.render()
                if frame is None:
                    raise RuntimeError(f"{env} renders no images")
                writer.append_data(np.asarray(frame))
                observation, _, terminated, truncated, _ = filmed.step(policy(observation[None])[0])
                if terminated or truncated:
                    break
    finally:
        filmed.close()
    return path


def _camera(env: EnvSource, size: int | None) -> dict[str, Any]:
    """Arguments that film a MuJoCo task in this size, and with the camera that follows the body where there is one."""
    if not isinstance(env, str):
        return {}
    plain = make_env(env)
    model = getattr(plain.unwrapped, "model", None)
    plain.close()
    if not hasattr(model, "ncam"):
        return {}
    follows = any(model.camera(i).name == "track" for i in range(model.ncam))
    return ({"camera_name": "track"} if follows else {}) | ({"width": size, "height": size} if size else {})
