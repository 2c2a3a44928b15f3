"""The list of a study's cells on disk: what is to be run, and which commands asked for it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from r2vpo.checkpoint import write_text_atomically
from r2vpo.control.jobs import Job
from r2vpo.errors import RunDirectoryError
from r2vpo.provenance import machine_description, package_versions, source_commit

STUDY = "study.json"
"""Cells, how they are run, and where the list came from."""


@dataclass(frozen=True)
class JobList:
    """Everything that ``--resume`` needs."""

    jobs: tuple[Job, ...]
    """In the order in which they start: seeds outermost, so that all cells have equally many when it is stopped."""
    workers: int
    """Processes at a time."""
    videos: str
    """Which policies are filmed at the end."""
    commands: tuple[dict[str, Any], ...] = ()
    """The commands that asked for cells, each with versions, machine, commit and time."""

    @classmethod
    def open(cls, folder: Path) -> JobList:
        """The list that a folder holds.

        Raises:
            RunDirectoryError: There is none, or it is damaged.
        """
        try:
            document = json.loads((folder / STUDY).read_text())
            jobs = tuple(Job(**job) for job in document["jobs"])
            return cls(jobs, int(document["workers"]), document["videos"], tuple(document["commands"]))
        except FileNotFoundError as error:
            raise RunDirectoryError(f"out={str(folder)!r} holds no study: there is no {STUDY} in it") from error
        except (ValueError, KeyError, TypeError) as error:
            raise RunDirectoryError(f"{folder / STUDY} is damaged: {error}") from error

    def with_jobs(self, jobs: Sequence[Job]) -> JobList:
        """The list with the cells that it lacks; those it has stay as they are."""
        cells = {job.key: job for job in jobs} | {job.key: job for job in self.jobs}
        known = {job.key for job in self.jobs}
        ordered = [*self.jobs, *(job for key, job in cells.items() if key not in known)]
        return replace(self, jobs=tuple(sorted(ordered, key=lambda job: job.seed)))

    def with_command(self, command: str) -> JobList:
        """The list with a command, its versions, machine, commit and time; one that it knows is not added again."""
        if any(known["command"] == command for known in self.commands):
            return self
        came_from = {
            "command": command,
            "versions": package_versions(),
            "machine": machine_description(),
            "commit": source_commit(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        return replace(self, commands=(*self.commands, came_from))

    def save(self, folder: Path) -> None:
        """Write the list.

        Raises:
            RunDirectoryError: The folder cannot be written.
        """
        try:
            write_text_atomically(folder / STUDY, json.dumps(asdict(self), indent=1))
        except OSError as error:
            raise RunDirectoryError(f"{folder / STUDY} cannot be written: {error.strerror}") from error
