"""``r2vpo control enjoy``: a trained agent at work, as films or in a window."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from r2vpo.control.config import EnvKwargs
from r2vpo.errors import CheckpointError


@dataclass(frozen=True)
class EnjoyCommand:
    """Watch a trained agent: as a film, or live in a window."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory, or a file written by save()."""
    render: Literal["film", "human"] = "film"
    """film: an mp4 that lasts as long as the episode; human: a window, where there is a screen."""
    env: str | None = None
    """Another environment, with the spaces of the one that was trained on; module:Id imports the module first."""
    env_kwargs: EnvKwargs = field(default_factory=dict)
    """Arguments of the environment, over those of training."""
    best: bool = False
    """The model that was best in evaluations while training (--eval-every) instead of the last."""
    stochastic: bool = False
    """Sample actions instead of taking the mean."""
    episodes: int = 1
    """How many, each a film of its own."""
    seed: int | None = None
    """Of the first episode; by default the training seed."""
    max_episode_steps: int | None = None
    """Steps at which an episode is cut; by default the environment's own time limit, and 2000 where it has none."""
    size: int | None = None
    """Width and height of the film in pixels, for MuJoCo tasks."""
    out: Path | None = None
    """File to film into; by default video.mp4 beside the run. Where there is one, -2, -3, ... is added."""
    quiet: bool = False
    """No live line."""
    json: Path | None = None
    """Also write returns, lengths and films to this file."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    command = tyro.cli(EnjoyCommand, args=list(arguments), prog="r2vpo control enjoy")
    from r2vpo.control.algorithm import R2VPO
    from r2vpo.control.pictures.watching import FILM, watch
    from r2vpo.runs.directory import BEST

    path = command.run / BEST if command.best else command.run
    if not path.exists():
        raise CheckpointError(f"no run or model at {path}" + (": train with --eval-every" if command.best else ""))
    model = R2VPO.load(path)
    folder = command.run if command.run.is_dir() else command.run.parent
    first = model.config.seed if command.seed is None else command.seed
    seen = []
    for seed in range(first, first + command.episodes):
        seen.append(
            watch(
                model,
                command.out or folder / FILM,
                render=command.render,
                env=command.env,
                env_kwargs=command.env_kwargs,
                deterministic=not command.stochastic,
                seed=seed,
                max_episode_steps=command.max_episode_steps,
                size=command.size,
                progress_bar=not command.quiet,
            )
        )
        where = "" if seen[-1].film is None else f"  {seen[-1].film}"
        print(f"return {seen[-1].episode_return:.1f} in {seen[-1].length} steps{where}")
    if command.json is not None:
        rows = [{"return": s.episode_return, "length": s.length, "film": s.film and str(s.film)} for s in seen]
        command.json.write_text(json.dumps({"env": command.env or model.config.env, "episodes": rows}, indent=1))
    return 0
