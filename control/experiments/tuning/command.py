"""``r2vpo control tune``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec

import tyro

from r2vpo.control.experiments.tuning.options import TuneCommand
from r2vpo.errors import ConfigError


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    command = tyro.cli(TuneCommand, args=list(arguments), prog="r2vpo control tune")
    if find_spec("optuna") is None:
        raise ConfigError("tune", "optuna", "installed: pip install 'r2vpo[tune]'")
    from r2vpo.control.experiments.tuning.search import search

    try:
        results = search(command)
    except KeyboardInterrupt:
        print(f"\nstopped; the same command goes on with the trials that are missing in {command.out}")
        return 130
    if command.json is not None:
        command.json.write_text(json.dumps(results, indent=1))
    return 0
