"""One live line for a long command: progress, speed, time left, and the figures that matter."""

from __future__ import annotations

import sys
import time
from types import TracebackType


class LiveLine:
    """Redraws one line on a terminal; elsewhere prints a line now and then.

    Args:
        total: Units of work in all.
        unit: Name of a unit, for the speed.
        done: Units done before this process started.
        quiet: Print nothing.
    """

    def __init__(self, total: int, unit: str = "steps", done: int = 0, quiet: bool = False) -> None:
        self.total, self.unit, self.quiet = total, unit, quiet
        self.first, self.done = done, done
        self.started = time.monotonic()
        self.last_print = 0.0
        self.terminal = sys.stderr.isatty()
        self._progress = None
        if self.terminal and not quiet:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

            columns = (BarColumn(20), TaskProgressColumn(), TextColumn("{task.description}"))
            self._progress = Progress(*columns, console=Console(stderr=True), transient=False)
            self._task = self._progress.add_task("", total=total, completed=done)

    def __enter__(self) -> LiveLine:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, done: int, **figures: float | str | None) -> None:
        """Show ``done`` units and the figures, in the order given; None shows as a dash."""
        self.done = done
        if self.quiet:
            return
        text = f"{done:,}/{self.total:,} {self.unit}  {self.speed:,.0f}/s  ETA {self._eta()}"
        text += "".join(f"  {name.replace('_', ' ')} {figure_text(value)}" for name, value in figures.items())
        if self._progress is not None:
            self._progress.update(self._task, completed=min(done, self.total), description=text)
        elif time.monotonic() - self.last_print >= 10.0 or done >= self.total:
            self.last_print = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    @property
    def speed(self) -> float:
        """Units a second since this process started."""
        return (self.done - self.first) / max(time.monotonic() - self.started, 1e-9)

    def _eta(self) -> str:
        if self.done <= self.first:
            return "--:--"
        return clock_text(max(0, self.total - self.done) / self.speed)


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
