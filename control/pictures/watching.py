"""Watching an agent: where it plays, where its film goes, and what came of the episode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from r2vpo.control.pictures.films import Render, record_video, show_live, unused
from r2vpo.envs.making import EnvSource, env_with
from r2vpo.errors import ConfigError
from r2vpo.runs.progress import LiveLine
from r2vpo.validation import Count, Seed, checked

if TYPE_CHECKING:
    from r2vpo.control.callbacks.model import Model

FILM = "video.mp4"


@dataclass(frozen=True)
class Watched:
    """An episode that was watched."""

    episode_return: float
    length: int
    film: Path | None
    """None where it was live."""


def watch(
    model: Model,
    path: str | Path | None = None,
    *,
    render: Render = "film",
    env: EnvSource | gym.Env | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    deterministic: bool = True,
    seed: int | None = None,
    max_episode_steps: int | None = None,
    size: int | None = None,
    progress_bar: bool = False,
) -> Watched:
    """Film one episode, or play it in a window; see :meth:`r2vpo.control.R2VPO.watch`."""
    checked("render", render, Render)
    checked("max_episode_steps", max_episode_steps, Count | None)
    checked("size", size, Count | None)
    start = checked("seed", model.config.seed if seed is None else seed, Seed)
    source, kwargs = _source(model, env, dict(env_kwargs or {}))
    film = None if render == "human" else unused(_film_path(model, path))
    length, total = 0, 0.0
    with LiveLine(1, "steps", quiet=not progress_bar) as line:

        def on_step(steps: int, limit: int, so_far: float) -> None:
            nonlocal length, total
            length, total = steps, so_far
            line.aim(limit)
            line.update(steps, **{"return": so_far})

        common: dict[str, Any] = {"max_steps": max_episode_steps, "env_kwargs": kwargs, "on_step": on_step}
        if film is None:
            show_live(model.act(deterministic), source, start, **common)
        else:
            record_video(model.act(deterministic), source, film, start, size=size, **common)
    return Watched(total, length, film)


def _film_path(model: Model, path: str | Path | None) -> Path:
    if path is None:
        return Path(FILM) if model.run is None else model.run.path / FILM
    path = Path(path)
    if path.is_dir():
        return path / FILM
    path.parent.mkdir(parents=True, exist_ok=True)
    return path if path.suffix else path.with_suffix(".mp4")


def _source(
    model: Model, env: EnvSource | gym.Env | None, kwargs: dict[str, Any]
) -> tuple[EnvSource | gym.Env, dict[str, Any]]:
    """What to watch in, and its arguments; it has the spaces of the model."""
    own = model.env_id
    if env is None and own is None:
        allowed = "given: an id, or a function that makes one with render_mode='rgb_array', or 'human' for a window"
        raise ConfigError("env", model.config.env, allowed)
    chosen = own if env is None else env
    assert chosen is not None
    if kwargs and not isinstance(chosen, str):
        raise ConfigError("env_kwargs", kwargs, "left out where env is no id")
    if isinstance(chosen, str):
        kwargs = {**(model.config.env_kwargs if env is None else {}), **kwargs}
    model.require_spaces_of(env_with(chosen, kwargs) if isinstance(chosen, str) else chosen)
    return chosen, kwargs
