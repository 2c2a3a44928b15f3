"""Every completion of an evaluation in one JSONL file that a killed evaluation goes on with.

The first line holds the settings; then one line a completion. The lines of a problem stand next to each other: its
sampled answers, then its greedy one where asked for. Lines of a problem that a kill cut short are dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from r2vpo.errors import RunDirectoryError
from r2vpo.runs.checkpoint import write_text_atomically

Line = dict[str, Any]
"""``index`` of the problem in the benchmark, its ``id``, ``prompt``, ``answer``, then ``sample`` (None for the greedy
answer), ``completion``, ``reward`` (None without a verdict), ``verdicts`` by reward function, ``finished``,
``tokens``, ``generate_seconds`` and ``verify_seconds``: its share of the time its batch took. Where reward functions
raised, ``errors`` has what they said, by function."""

SETTINGS, ERRORS = "settings", "errors"


class CompletionsFile:
    """Appends groups of completions, one problem after another; knows what is there already.

    Args:
        path: The file; created with its folder when missing.
        settings: What the completions depend on, as plain JSON values.
        group_lines: Lines of one problem.

    Raises:
        RunDirectoryError: The file is not of this kind, was made with other settings, or cannot be written.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any], group_lines: int) -> None:
        self.path, self.group_lines = Path(path), group_lines
        self.settings = settings = json.loads(json.dumps(settings))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and self.path.stat().st_size:
                check_settings(self.path, settings)
                self._cut_partial_group()
            else:
                write_text_atomically(self.path, json.dumps({SETTINGS: settings}) + "\n")
            self._file = self.path.open("ab")
        except OSError as error:
            raise RunDirectoryError(f"{self.path} cannot be written: {error.strerror}") from error

    def __enter__(self) -> CompletionsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, groups: Sequence[Sequence[Line]]) -> None:
        """Write the lines of whole problems and hand them to the operating system."""
        if any(len(group) != self.group_lines for group in groups):
            raise ValueError(f"a problem has {self.group_lines} lines")
        self._file.write("".join(json.dumps(line, default=str) + "\n" for group in groups for line in group).encode())
        self._file.flush()

    def replace(self, groups: Sequence[Sequence[Line]]) -> None:
        """Write the file anew, with the lines of these problems."""
        self._file.close()
        lines = [{SETTINGS: self.settings}, *(line for group in groups for line in group)]
        write_text_atomically(self.path, "".join(json.dumps(line, default=str) + "\n" for line in lines))
        self._file = self.path.open("ab")

    def groups(self) -> Iterator[list[Line]]:
        """Lines of each whole problem in the file."""
        return read_groups(self.path)

    def _cut_partial_group(self) -> None:
        with self.path.open("rb+") as file:
            whole = end = len(file.readline())
            for number, raw in enumerate(file, start=1):
                if not raw.endswith(b"\n"):
                    break
                end += len(raw)
                if number % self.group_lines == 0:
                    whole = end
            file.truncate(whole)


def read_groups(path: str | Path) -> Iterator[list[Line]]:
    """Lines of each problem of a completions file, one problem at a time.

    Raises:
        RunDirectoryError: A line is damaged.
    """
    group: list[Line] = []
    with Path(path).open() as file:
        next(file, None)
        for number, text in enumerate(file, start=2):
            line = _parse(text, path, number)
            if group and line.get("index") != group[0].get("index"):
                yield group
                group = []
            group.append(line)
    if group:
        yield group


def whole_groups(path: str | Path, group_lines: int) -> int:
    """Number of problems in a completions file; 0 where there is no file."""
    if not Path(path).exists():
        return 0
    with Path(path).open("rb") as file:
        return max(0, sum(raw.endswith(b"\n") for raw in file) - 1) // group_lines


def check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Raise RunDirectoryError, naming what differs, when a completions file was made with other settings.

    Another reward is none where the former one judged nothing: the completions are judged again.
    """
    settings = json.loads(json.dumps(settings))
    with path.open() as file:
        stored = _parse(file.readline(), path, 1).get(SETTINGS)
    if not isinstance(stored, dict):
        raise RunDirectoryError(f"{path} is not a file of completions: its first line holds no settings")
    changed = [
        f"{name} {stored.get(name)!r} instead of {settings.get(name)!r}"
        for name in sorted(stored.keys() | settings.keys())
        if stored.get(name) != settings.get(name)
        and not (name == "reward" and all(line["reward"] is None for group in read_groups(path) for line in group))
    ]
    if changed:
        raise RunDirectoryError(
            f"{path} holds completions of other settings ({'; '.join(changed)}): choose another folder, or delete it"
        )


def _parse(text: str, path: str | Path, number: int) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except json.JSONDecodeError as error:
        raise RunDirectoryError(f"{path} is damaged: line {number} is not JSON") from error
    if not isinstance(line, dict):
        raise RunDirectoryError(f"{path} is damaged: line {number} is not a JSON object")
    return line
