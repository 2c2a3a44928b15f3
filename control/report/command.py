"""``r2vpo report``: the page of a study, its pictures, and its numbers as JSON."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from r2vpo.control.report.lines import Study, read_study
from r2vpo.errors import ConfigError, RunDirectoryError
from r2vpo.runs.checkpoint import write_text_atomically
from r2vpo.runs.progress import LiveLine

PAGE = "report.html"
NUMBERS = "report.json"


@dataclass(frozen=True)
class ReportCommand:
    """Write one HTML page about the runs of a study: tables, aggregates over tasks, learning curves, videos.

    The page is one file that needs nothing else to be shown. The pictures, and every number as report.json, lie
    beside it.
    """

    lines: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Files of study lines, or folders that hold a runs.jsonl."""
    out: Path
    """Folder to write to."""
    reference: str | None = None
    """Algorithm to whose final training return steps are counted; ppo where there is one, else the first."""
    baseline: str | None = None
    """Algorithm that the probability of improvement is over; sb3-ppo where there is one, else the reference."""
    resamples: int = 2000
    """Of the bootstrap."""
    videos: int | None = None
    """Show videos of this many tasks at most, the first ones; of all when not given."""
    interactive: bool = True
    """Learning curves with hover and switches, where plotly is installed; they make the page 5 MB larger."""
    title: str | None = None
    """Of the page; named after algorithms and tasks when not given."""
    quiet: bool = False
    """No live line."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; prints the path of the page and of the numbers."""
    command = tyro.cli(ReportCommand, args=list(arguments), prog="r2vpo report")
    write_report(command, shlex.join(["r2vpo", "report", *arguments]))
    for name in (PAGE, NUMBERS):
        print(command.out / name)
    from r2vpo.control.report.interactive import is_available

    if command.interactive and not is_available():
        print("the curves are pictures: pip install 'r2vpo[report]' makes them interactive", file=sys.stderr)
    return 0


def write_report(command: ReportCommand, words: str) -> dict[str, Any]:
    """Write page, pictures and numbers; returns what report.json holds.

    Args:
        command: What to write from what, and where.
        words: The command line, for the page.

    Raises:
        ConfigError: A setting that is not allowed, missing files, or lines that do not belong together.
        R2VPOError: Lines that are damaged, or a folder that cannot be written.
    """
    from r2vpo.control.report import interactive
    from r2vpo.control.report.figures import draw_all
    from r2vpo.control.report.lines import choose_videos
    from r2vpo.control.report.numbers import numbers_of
    from r2vpo.control.report.page import render

    for field, least in (("resamples", 1), ("videos", 0)):
        value = getattr(command, field)
        if value is not None and value < least:
            raise ConfigError(field, value, f"a whole number of at least {least}")
    study = read_study(command.lines)
    reference = _algorithm("reference", command.reference, ("ppo",), study)
    baseline = _algorithm("baseline", command.baseline, ("sb3-ppo", reference), study)
    films = choose_videos(study, command.videos)
    document: dict[str, Any] = {"title": command.title or _title(study), "command": words}
    document |= {"reference": reference, "baseline": baseline, "resamples": command.resamples}
    parts = numbers_of(study, reference, baseline, command.resamples)
    with LiveLine(len(parts) + 1, "parts", quiet=command.quiet) as line:
        for name, make in parts.items():
            document[name] = make()
            line.update(line.done + 1, now=name.replace("_", " "))
        document["videos"] = [{**row, "path": str(row["path"]) if row["path"] else None} for row in films]
        try:
            command.out.mkdir(parents=True, exist_ok=True)
            pictures, paths = draw_all(document, command.out), [row["path"] for row in films]
            page = render(document, pictures, paths, command.interactive and interactive.is_available())
            write_text_atomically(command.out / PAGE, page)
            write_text_atomically(command.out / NUMBERS, json.dumps(document, indent=1, allow_nan=False) + "\n")
        except OSError as error:
            raise RunDirectoryError(f"{command.out} cannot be written: {error.strerror}") from error
        line.update(line.total, now="pictures and page")
    return document


def _algorithm(field: str, given: str | None, wanted: Sequence[str], study: Study) -> str:
    if given is None:
        return next((algo for algo in wanted if algo in study.algorithms), study.algorithms[0])
    if given not in study.algorithms:
        raise ConfigError(field, given, f"one of {', '.join(study.algorithms)}")
    return given


def _title(study: Study) -> str:
    def few(names: Sequence[str], what: str) -> str:
        return ", ".join(names) if len(names) <= 6 else f"{len(names)} {what}"

    return f"{few(study.algorithms, 'algorithms')} on {few(study.tasks, 'tasks')}"
