"""``r2vpo plot``: the training curves of runs, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class PlotCommand:
    """Draw the training curves of one or more runs."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories."""
    output: Path | None = None
    """PNG to write; curve.png in the first run directory when not given."""


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    command = tyro.cli(PlotCommand, args=list(arguments), prog="r2vpo plot")
    if not command.runs:
        from r2vpo.errors import ConfigError

        raise ConfigError("runs", (), "one run directory or more")
    from r2vpo.plotting import plot_runs
    from r2vpo.run_directory import CURVE

    print(plot_runs(command.runs, command.output or command.runs[0] / CURVE))
    return 0
