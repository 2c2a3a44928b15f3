"""Pictures and films of control runs: training curves from their metrics, and episodes of an agent as videos."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from r2vpo.control.evaluation import BatchPolicy
from r2vpo.envs.gate import Gate, close_all
from r2vpo.envs.making import EnvSource, env_name, make_env
from r2vpo.runs.plotting import PlottedRun, draw_delta, load_run, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = (
    ("return", "mean return (points: evaluated, dashed: sampled)"),
    ("ratio_variance", "ratio variance  E[(ρ-1)²]"),
    ("lam", "λ"),
    ("ess", "effective sample size / N"),
    ("max_ratio", "largest ratio"),
    ("entropy", "policy entropy (nats)"),
)
"""Metrics of a control run that are drawn, with their titles."""


def write_figures(run_dirs: Sequence[str | Path], output: Path) -> list[Path]:
    """All figures of control runs: the training curves; see :func:`plot_runs`."""
    return [plot_runs(run_dirs, output)]


def plot_runs(run_dirs: Sequence[str | Path], output: str | Path) -> Path:
    """Draw the training curves of one or more runs into one PNG.

    Args:
        run_dirs: Run directories with a metrics file.
        output: The picture to write.

    Raises:
        RunDirectoryError: A folder holds no run or no metrics yet.
    """
    runs = [load_run(run_dir) for run_dir in run_dirs]
    figure, axes = panel_figure()
    for i, run in enumerate(runs):
        for axis, (name, _) in zip(axes, PANELS, strict=True):
            steps, values = run.series(name)
            if len(steps):
                axis.plot(steps, values, color=f"C{i}", label=_label(run), linewidth=1.4)
        for kind, style in (("mean", "o-"), ("mean_stochastic", "o--")):
            axes[0].plot(*run.series(f"eval_return_{kind}"), style, color=f"C{i}", markersize=3)
    draw_delta(axes[1], runs)
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", fontsize=8)
    return save_figure(figure, output)


def panel_figure() -> tuple[Figure, list[Axes]]:
    """A figure with an empty panel for each of :data:`PANELS`."""
    figure, axes = new_figure(2, 3, (13.0, 6.4))
    for axis, (name, title) in zip(axes.flat, PANELS, strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("environment steps")
        axis.ticklabel_format(axis="x", style="sci", scilimits=(0, 4))
        if name == "max_ratio":
            axis.set_yscale("log")
    return figure, list(axes.flat)


def _label(run: PlottedRun) -> str:
    described = [str(run.config[key]) for key in ("env", "objective", "algo") if key in run.config]
    seed = f"seed {run.config['seed']}" if "seed" in run.config else ""
    return f"{run.path.name}: {' '.join(described)} {seed}".strip()


def record_video(
    policy: BatchPolicy,
    env: EnvSource,
    path: Path,
    seed: int,
    max_steps: int = 200,
    size: int | None = None,
    env_kwargs: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """Film the first ``max_steps`` steps of one episode as an mp4.

    Args:
        policy: Chooses the actions.
        env: Environment to make and film.
        path: File to write.
        seed: Of the episode.
        max_steps: Frames at most.
        size: Width and height in pixels of a MuJoCo task; as the environment has it when not given, and of other tasks.
        env_kwargs: Further arguments of the environment.

    Raises:
        EnvironmentFailure: The environment raised, or returned what its observation space does not promise.
        RuntimeError: It renders no images.
    """
    import imageio.v2 as imageio

    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    filmed = make_env(env, render_mode="rgb_array", **_camera(env, size, env_kwargs), **env_kwargs)
    try:
        gate = Gate(filmed, env_name(env))
        observation = gate.reset(seed)
        fps = int(filmed.metadata.get("render_fps", 30))
        with cast(Any, imageio).get_writer(path, fps=fps, macro_block_size=16) as writer:
            for _ in range(max_steps):
                frame = filmed.render()
                if frame is None:
                    raise RuntimeError(f"{env} renders no images")
                writer.append_data(np.asarray(frame))
                observation, _, terminated, truncated, _ = gate.step(policy(observation[None])[0])
                gate.require_held("an observation", observation)
                if terminated or truncated:
                    break
    finally:
        close_all([filmed])
    return path


def _camera(env: EnvSource, size: int | None, env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that film a MuJoCo task in this size, and with the camera that follows the body where there is one."""
    if not isinstance(env, str):
        return {}
    plain = make_env(env, **env_kwargs)
    model: Any = getattr(plain.unwrapped, "model", None)
    plain.close()
    if not hasattr(model, "ncam"):
        return {}
    follows = any(model.camera(i).name == "track" for i in range(model.ncam))
    return ({"camera_name": "track"} if follows else {}) | ({"width": size, "height": size} if size else {})
