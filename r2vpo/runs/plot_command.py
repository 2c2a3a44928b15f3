"""``r2vpo plot``: the figures of runs, as pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated

import tyro

from r2vpo.errors import ConfigError, RunDirectoryError

FIGURES = {
    "control": "r2vpo.control.pictures",
    "seeds": "r2vpo.control.experiments.figures",
    "llm": "r2vpo.llm.experiments.curves",
}
"""By kind of run: the module whose ``write_figures(run_dirs, output)`` draws it and returns the pictures' paths."""

_SEEDS = "seeds.json"
"""Marks a directory with a control run for each of several seeds, in the place of config.json."""

_PICTURES = (".png", ".pdf", ".svg", ".jpg", ".jpeg")


@dataclass(frozen=True)
class PlotCommand:
    """Draw the figures of one or more runs of one kind.

    Continuous control: the training curves; of a directory of several seeds, their interquartile mean. Language
    models: the training curves, the paper's Figure 2 of the first run (ratio against behaviour probability; ratio
    variance beside JS and KL), and its Figure 3 (accuracy and reward by method, over seeds).
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories."""
    output: Path | None = None
    """PNG to write, the other pictures beside it with its name in front; or a folder for curve.png and the others.
    When not given, the run directory of a single run; curves.png in the current folder for several."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; prints the path of each picture."""
    command = tyro.cli(PlotCommand, args=list(arguments), prog="r2vpo plot")
    if not command.runs:
        raise ConfigError("runs", (), "one run directory or more")
    kinds = {run: kind_of_run(run) for run in command.runs}
    if len(set(kinds.values())) > 1:
        raise ConfigError("runs", ", ".join(f"{run} ({kind})" for run, kind in kinds.items()), "runs of one kind")
    of_itself = command.runs[0] if len(set(command.runs)) == 1 else Path("curves.png")
    module = import_module(FIGURES[kinds[command.runs[0]]])
    for path in module.write_figures(command.runs, output_file(command.output or of_itself)):
        print(path)
    return 0


def kind_of_run(run_dir: Path) -> str:
    """``llm`` or ``control``, from the run's config.json; ``seeds`` for a directory of several seeds.

    Raises:
        RunDirectoryError: The file is damaged or names an unknown kind.
    """
    from r2vpo.runs.directory import CONFIG

    path = run_dir / CONFIG
    if (run_dir / _SEEDS).is_file():
        return "seeds"
    if not path.is_file():
        return "control"
    try:
        kind = json.loads(path.read_text()).get("kind", "control")
    except (json.JSONDecodeError, AttributeError) as error:
        raise RunDirectoryError(f"{path} is damaged: {error}") from error
    if kind not in FIGURES:
        raise RunDirectoryError(f"{path} names kind {kind!r}; kinds are {', '.join(FIGURES)}")
    return str(kind)


def output_file(output: Path) -> Path:
    """The picture of the training curves: ``output`` itself if it is named like one, else curve.png in that folder.

    Raises:
        ConfigError: A picture of another format.
    """
    from r2vpo.runs.directory import CURVE

    if output.is_dir() or output.suffix.lower() not in _PICTURES:
        return output / CURVE
    if output.suffix.lower() != ".png":
        raise ConfigError("output", str(output), "a file ending in .png, or a folder")
    return output
