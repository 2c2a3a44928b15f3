"""A live table for several runs at once: a row each with progress, speed, time left and figures, and their totals."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from r2vpo.runs.progress import clock_text, figure_text

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

Figure = float | str | None
"""What a column shows: a number, a text, or None for a dash."""

Forecast = Callable[[Mapping[Hashable, tuple[int, float | None]]], float | None]
"""Seconds until all have ended, or None while unknown; from each open row's units done and its own seconds left."""

_NOT_YET = ("waiting", "starting")
_ENDED = ("done", "failed", "stopped")
_STYLES = {"waiting": "dim", "starting": "dim", "done": "green", "failed": "red", "stopped": "yellow"}
_LINE_SECONDS = 10.0
"""Time between the lines that stand for the table where there is no terminal."""


@dataclass
class _Row:
    label: str
    size: int
    state: str = "waiting"
    first: int = 0
    done: int = 0
    began: float | None = None
    ended: float | None = None
    figures: dict[str, Figure] = field(default_factory=dict)

    def speed(self, now: float) -> float:
        """Units a second since its process began to work; 0 while unknown."""
        if self.began is None:
            return 0.0
        return (self.done - self.first) / max((self.ended or now) - self.began, 1e-9)

    def seconds_left(self, now: float) -> float | None:
        """None while unknown, and when it ended."""
        speed = self.speed(now)
        return (self.size - self.done) / speed if speed > 0 and self.ended is None else None


class LiveTable:
    """Redraws a table on a terminal; elsewhere prints a line now and then. On standard error.

    Args:
        heading: What a row is, as the heading of the first column.
        rows: By key, the row's name and its units of work.
        columns: Names of the figures, in the order shown.
        unit: Name of a unit of work, for the speed.
        quiet: Show nothing.
        forecast: Time left for all rows, where their speeds alone do not tell; a finished row is not among those given.
        only_active: Leave out the rows that wait or are done; the last row counts them.
    """

    def __init__(
        self,
        heading: str,
        rows: Mapping[Hashable, tuple[str, int]],
        columns: Sequence[str],
        unit: str = "steps",
        quiet: bool = False,
        forecast: Forecast | None = None,
        only_active: bool = False,
    ) -> None:
        self.heading, self.columns, self.unit, self.quiet = heading, tuple(columns), unit, quiet
        self._forecast, self._only_active = forecast, only_active
        self._rows = {key: _Row(label, size) for key, (label, size) in rows.items()}
        self._lock = threading.Lock()
        self._last_line = 0.0
        self._live: Live | None = None
        if sys.stderr.isatty() and not quiet:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), get_renderable=self.render, refresh_per_second=4)

    def __enter__(self) -> LiveTable:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, key: Hashable, state: str, done: int, figures: Mapping[str, Any]) -> None:
        """Change one row.

        Args:
            key: Of the row.
            state: waiting, starting, done, failed, stopped, or any word for being at work.
            done: Units done. Those it had while waiting or starting do not count as speed.
            figures: By column name; those left out stay as they were.
        """
        with self._lock:
            row, now = self._rows[key], time.monotonic()
            row.state, row.done = state, min(done, row.size)
            row.figures |= figures
            if row.began is None and state not in ("failed", "stopped"):
                row.first = row.done
                row.began = None if state in _NOT_YET or state == "done" else now
            # What comes after the last unit, an evaluation say, is not part of the speed.
            over = state in _ENDED or (row.began is not None and row.done >= row.size)
            row.ended = (row.ended or now) if over else None
        if self._live is None and not self.quiet:
            self._print_line(now)

    def render(self) -> Table:
        """The table as it stands, for a rich console."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table()
        table.add_column(self.heading)
        table.add_column("state")
        table.add_column("progress", min_width=16)
        for heading in ("", f"{self.unit}/s", "ETA", *self.columns):
            table.add_column(heading, justify="right")
        with self._lock:
            now = time.monotonic()
            for row in self._shown():
                table.add_row(
                    row.label,
                    Text(row.state, style=_STYLES.get(row.state, "")),
                    ProgressBar(total=row.size, completed=row.done, width=16),
                    f"{_percent(row.done, row.size)} %",
                    _speed(row.speed(now)),
                    clock_text(row.seconds_left(now)),
                    *(figure_text(row.figures.get(name)) for name in self.columns),
                )
            table.add_section()
            total, done = self._units()
            table.add_row(
                "all",
                f"{self._ended()}/{len(self._rows)} done",
                ProgressBar(total=total, completed=done, width=16),
                f"{_percent(done, total)} %",
                _speed(self._total_speed(now)),
                clock_text(self._total_seconds_left(now)),
                *("" for _ in self.columns),
                style="bold",
            )
        return table

    def _print_line(self, now: float) -> None:
        with self._lock:
            total, done = self._units()
            everything = all(row.state in _ENDED for row in self._rows.values())
            working = [row for row in self._rows.values() if row.began is not None and row.ended is None]
            if not (working or everything) or (now - self._last_line < _LINE_SECONDS and not everything):
                return
            self._last_line = now
            text = f"{self._ended()}/{len(self._rows)} {self.heading}s  {done:,}/{total:,} {self.unit}  "
            text += f"{self._total_speed(now):,.0f}/s  ETA {clock_text(self._total_seconds_left(now))}"
            for row in working:
                figures = "".join(f" {name} {figure_text(row.figures.get(name))}" for name in self.columns[:1])
                text += f"  {self.heading} {row.label} {_percent(row.done, row.size)} %{figures}"
        print(text, file=sys.stderr, flush=True)

    def _shown(self) -> list[_Row]:
        return [row for row in self._rows.values() if not self._only_active or row.state not in ("waiting", "done")]

    def _units(self) -> tuple[int, int]:
        return sum(row.size for row in self._rows.values()), sum(row.done for row in self._rows.values())

    def _ended(self) -> int:
        return sum(1 for row in self._rows.values() if row.state == "done")

    def _total_speed(self, now: float) -> float:
        began = [row.began for row in self._rows.values() if row.began is not None]
        ended = [row.ended for row in self._rows.values() if row.ended is not None]
        if not began:
            return 0.0
        working = len(ended) < len(self._rows)
        units = sum(row.done - row.first for row in self._rows.values())
        return units / max((now if working else max(ended)) - min(began), 1e-9)

    def _total_seconds_left(self, now: float) -> float | None:
        """Also no sooner than the slowest row: towards the end fewer run at a time than before."""
        if self._forecast is not None:
            rows = {key: row for key, row in self._rows.items() if row.state not in _ENDED}
            return self._forecast({key: (row.done, row.seconds_left(now)) for key, row in rows.items()})
        open_rows = [row for row in self._rows.values() if row.state not in _ENDED]
        speed = self._total_speed(now)
        if not open_rows or speed <= 0:
            return None
        together = sum(row.size - row.done for row in open_rows) / speed
        return max(together, *(row.seconds_left(now) or 0.0 for row in open_rows))


def _percent(done: int, size: int) -> int:
    return 100 * done // max(size, 1)


def _speed(value: float) -> str:
    return f"{value:,.0f}" if value > 0 else "-"
