"""What a long command shows on standard error: a live line, or for several runs a live table with a row each."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Hashable, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TaskProgressColumn, TextColumn
from rich.progress_bar import ProgressBar
from rich.text import Text

_LINE_SECONDS = 10.0
"""Time between the lines that are printed where there is no terminal."""
_NOT_YET = ("waiting", "starting")
_ENDED = ("done", "failed", "stopped")
_STYLES = {"waiting": "dim", "starting": "dim", "done": "green", "failed": "red", "stopped": "yellow"}
_MOST_ROWS = 20
"""Of a table of more runs, those that wait or are done are left out."""


class LiveLine:
    """Redraws one line on a terminal; elsewhere prints a line now and then.

    Args:
        total: Units of work in all.
        unit: Name of a unit, for the speed.
        done: Units done before this process started.
        quiet: Print nothing.
    """

    def __init__(self, total: int, unit: str = "steps", done: int = 0, quiet: bool = False) -> None:
        self.total, self.done = total, done
        self._unit, self._printer = unit, _Printer(quiet)
        self._bar = _live(quiet, BarColumn(20), TaskProgressColumn(), TextColumn("{task.description}"))
        self._task = self._bar.add_task("", total=total, completed=done, first=done)

    def __enter__(self) -> LiveLine:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def aim(self, total: int) -> None:
        """Change the units of work in all."""
        self.total = total
        self._bar.update(self._task, total=total)

    def update(self, done: int, **figures: float | str | None) -> None:
        """Show ``done`` units and the figures, in the order given; None shows as a dash."""
        self.done = done
        self._bar.update(self._task, completed=done)
        task = self._bar.tasks[0]
        text = f"{_pace(task, self._unit)}  ETA {clock_text(_seconds_left(task))}  {_figures_text(figures)}".rstrip()
        self._bar.update(self._task, description=text)
        self._printer.print(text, at_once=done >= self.total)


class LiveTable:
    """Redraws a row for each run and one for all of them on a terminal; elsewhere prints a line now and then.

    Args:
        what: What a row is, in one word.
        rows: By key, the row's name and its units of work.
        unit: Name of a unit of work, for the speed.
        quiet: Show nothing.
    """

    def __init__(
        self, what: str, rows: Mapping[Hashable, tuple[str, int]], unit: str = "steps", quiet: bool = False
    ) -> None:
        self._what, self._unit, self._printer = what, unit, _Printer(quiet)
        self._table = _live(
            quiet,
            TextColumn("{task.description}"),
            _Column(lambda task: Text(task.fields["state"], style=_STYLES.get(task.fields["state"], ""))),
            # Not rich's own column: that pulses where a row has not begun, and many of ours wait.
            _Column(lambda task: ProgressBar(total=task.total, completed=task.completed, width=16)),
            _Column(lambda task: f"{_percent(task)} %"),
            _Column(lambda task: f"{_speed(task):,.0f} {unit}/s" if _speed(task) else ""),
            _Column(lambda task: f"ETA {clock_text(self._left(task))}" if task.start_time and not _over(task) else ""),
            _Column(lambda task: Text(_figures_text(task.fields["figures"]))),
        )
        self._places: dict[Hashable, TaskID] = {}
        self._all_shown = len(rows) <= _MOST_ROWS
        for key, (label, size) in rows.items():
            fields: dict[str, Any] = {"first": 0, "figures": {}, "state": "waiting"}
            self._places[key] = self._table.add_task(label, start=False, total=size, visible=self._all_shown, **fields)
        fields = {"first": 0, "figures": {}, "state": ""}
        total = sum(size for _, size in rows.values())
        self._all = self._table.add_task("all", start=False, total=total, **fields)

    def __enter__(self) -> LiveTable:
        self._table.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._table.stop()

    def update(self, key: Hashable, state: str, done: int, figures: Mapping[str, Any]) -> None:
        """Change one row.

        Args:
            key: Of the row.
            state: waiting, starting, done, failed, stopped, or any word for being at work.
            done: Units done. Those it had while waiting or starting do not count as speed.
            figures: Numbers, texts or None by name; those left out stay as they were.
        """
        place, table = self._places[key], self._table
        row = table.tasks[place]
        if row.start_time is None:
            row.fields["first"] = done
            if state not in (*_NOT_YET, *_ENDED):
                table.start_task(place)
                table.start_task(self._all)
        row.fields["figures"] |= figures
        visible = self._all_shown or state not in ("waiting", "done")
        table.update(place, completed=min(done, row.total or done), state=state, visible=visible)
        if state in _ENDED and row.start_time is not None:
            table.stop_task(place)
        *rows, everything = table.tasks
        everything.fields["first"] = sum(row.fields["first"] for row in rows)
        ended = sum(row.fields["state"] == "done" for row in rows)
        table.update(self._all, completed=sum(row.completed for row in rows), state=f"{ended}/{len(rows)} done")
        self._print_line(rows, everything, ended)

    def _print_line(self, rows: list[Task], everything: Task, ended: int) -> None:
        over = all(row.fields["state"] in _ENDED for row in rows)
        working = [row for row in rows if row.start_time is not None and not _over(row)]
        if working or over:
            text = f"{ended}/{len(rows)} {self._what}s  {_pace(everything, self._unit)}"
            text += f"  ETA {clock_text(self._left(everything))}"
            for row in working:
                first = dict(list(row.fields["figures"].items())[:1])
                text += f"  {row.description} {_percent(row)} % {_figures_text(first)}".rstrip()
            self._printer.print(text, at_once=over)

    def _left(self, task: Task) -> float | None:
        """Of all no sooner than the slowest: towards the end fewer run at a time than before."""
        left = _seconds_left(task)
        if task.id != self._all or left is None:
            return left
        rows = [row for row in self._table.tasks[:-1] if not _over(row)]
        return max(left, *(_seconds_left(row) or 0.0 for row in rows)) if rows else left


class _Column(ProgressColumn):
    """A column whose cells are made anew whenever the table is drawn."""

    def __init__(self, cell: Callable[[Task], str | Text | ProgressBar]) -> None:
        super().__init__()
        self._cell = cell

    def render(self, task: Task) -> Text | ProgressBar:
        cell = self._cell(task)
        return Text(cell, justify="right") if isinstance(cell, str) else cell


class _Printer:
    """Prints lines where there is no terminal, not too often."""

    def __init__(self, quiet: bool) -> None:
        self._silent, self._last = quiet or sys.stderr.isatty(), 0.0

    def print(self, text: str, at_once: bool) -> None:
        now = time.monotonic()
        if not self._silent and (at_once or now - self._last >= _LINE_SECONDS):
            self._last = now
            print(text, file=sys.stderr, flush=True)


def _live(quiet: bool, *columns: ProgressColumn) -> Progress:
    hidden = quiet or not sys.stderr.isatty()
    return Progress(*columns, console=Console(stderr=True), disable=hidden, get_time=lambda: time.monotonic())


def _speed(task: Task) -> float:
    """Units a second since it began, until the last unit: what comes after that, an evaluation say, does not count."""
    seconds = task.finished_time or task.elapsed or 0.0
    done: float = task.completed - task.fields["first"]
    return done / max(seconds, 1e-9) if done > 0 and task.start_time is not None else 0.0


def _seconds_left(task: Task) -> float | None:
    """None while unknown."""
    speed = _speed(task)
    return max(0.0, (task.total or 0.0) - task.completed) / speed if speed else None


def _over(task: Task) -> bool:
    return task.finished or task.fields["state"] in _ENDED


def _percent(task: Task) -> int:
    return int(100 * task.completed // max(task.total or 0.0, 1.0))


def _pace(task: Task, unit: str) -> str:
    return f"{task.completed:,}/{task.total:,} {unit}  {_speed(task):,.0f}/s"


def _figures_text(figures: Mapping[str, float | str | None]) -> str:
    return "  ".join(f"{name.replace('_', ' ')} {figure_text(value)}" for name, value in figures.items())


def clock_text(seconds: float | None) -> str:
    """Hours, minutes and seconds; a dash for None."""
    if seconds is None:
        return "-"
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def figure_text(value: float | str | None) -> str:
    """A number to three or four digits, a text as it is, a dash for None."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
