"""A resumable list of runs: each in a process of its own, a JSON line in a file as each ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from r2vpo.runs.checkpoint import write_text_atomically
from r2vpo.runs.interrupt import StopRequest, finish_iteration_on_interrupt
from r2vpo.runs.progress import LiveLine

Line = dict[str, Any]
"""What one run left: its identity, its result, and where that came from."""

_LOOK_SECONDS = 0.2
"""How soon Ctrl-C is noticed."""


@dataclass(frozen=True)
class Cell:
    """One run to do."""

    job: Any
    """A dataclass of plain values, handed to the worker as JSON."""
    key: Hashable
    """Two lines with the same key are the same experiment."""
    size: int
    """Units of work, for progress."""
    label: str


class Display(Protocol):
    """Shows how the runs get on; :class:`r2vpo.runs.live_table.LiveTable` is one. Calls never overlap."""

    def __enter__(self) -> Any:
        """Begin to show."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last picture."""
        ...

    def update(self, key: Hashable, state: str, done: int, figures: Mapping[str, Any]) -> None:
        """A run's state (starting, running or what its worker says, done, failed, stopped), its units, its figures."""
        ...


def read_results(path: Path) -> list[Line]:
    """Study lines of a file; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1] if line]


def run_cells(
    cells: Sequence[Cell],
    results: Path,
    key_of_line: Callable[[Line], Hashable],
    worker: str,
    folder: Path,
    workers: int,
    unit: str,
    quiet: bool = False,
    *,
    display: Display | None = None,
    environment: Mapping[str, str] | None = None,
    grace: float = 0.0,
) -> list[str]:
    """Run every cell that has no line in ``results`` yet, adding a line as each ends.

    Args:
        cells: In the order in which they start.
        results: File of study lines.
        key_of_line: The key of the cell that a line is the result of.
        worker: Module whose main takes the job as JSON and ``folder``, and says :func:`say` messages.
        folder: Where runs may keep what they need to go on after a kill.
        workers: Processes at a time.
        unit: Of the sizes, for the live line.
        quiet: No live line.
        display: Shown instead of the live line.
        environment: Variables that the processes get besides this process's own.
        grace: Seconds that the processes have, after Ctrl-C, to save and end by themselves; 0 ends them at once.

    Returns:
        Error messages of the runs that failed.

    Raises:
        KeyboardInterrupt: Ctrl-C; the processes have ended by then.
    """
    lines = read_results(results)
    if results.exists():
        write_text_atomically(results, "".join(json.dumps(line) + "\n" for line in lines))
    finished = {key_of_line(line): line for line in lines}
    shown = display if display is not None else _OneLine(cells, unit, finished, quiet)
    for cell in cells:
        if cell.key in finished:
            shown.update(cell.key, "done", cell.size, finished[cell.key].get("figures", {}))
    variables = {**os.environ, **(environment or {})}
    runs = _Runs(results, shown, lambda cell: _start(worker, cell, folder, variables, own_session=grace > 0))
    stop = StopRequest()
    with finish_iteration_on_interrupt(stop), shown, ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(runs.work, cell) for cell in cells if cell.key not in finished]
        try:
            _wait(futures, stop)
            if stop:
                if grace > 0:
                    runs.ask_to_stop()
                    wait(futures, timeout=grace)
                raise KeyboardInterrupt
        except BaseException:
            runs.terminate()
            raise
    return runs.failures


def say(message: dict[str, Any]) -> None:
    """From a worker to :func:`run_cells`.

    ``{"step": units done}``, with ``"state"`` and ``"figures"`` by name where the display shows them; and at the end
    ``{"result": line}``, whose own ``"figures"`` stay in the display.
    """
    print(json.dumps(message), flush=True)


def die_with_parent() -> None:
    """In a worker: standard input is a pipe that only the parent holds open; when it closes, nobody waits any more."""

    def watch() -> None:
        # Not sys.stdin: a thread waiting in it would hold its lock when the interpreter shuts down.
        while os.read(0, 1024):
            continue
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Runs:
    """The processes under way, and what became of those that ended."""

    def __init__(self, results: Path, display: Display, start: Callable[[Cell], subprocess.Popen[str]]) -> None:
        self.failures: list[str] = []
        self._results, self._display, self._start = results, display, start
        self._lock = threading.Lock()
        self._running: dict[Hashable, subprocess.Popen[str]] = {}
        self._progress: dict[Hashable, int] = {}
        self._stopped = False

    def work(self, cell: Cell) -> None:
        """Run one cell to its end, in a thread of its own; nothing once the list was stopped."""
        with self._lock:
            if self._stopped:
                return
            process = self._running[cell.key] = self._start(cell)
            self._show(cell, "starting", {})
        try:
            result, error = _follow(process, lambda message: self._advance(cell, message))
        finally:
            with self._lock:
                del self._running[cell.key]
        with self._lock:
            if result is not None:
                with self._results.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                self._progress[cell.key] = cell.size
                self._show(cell, "done", result.get("figures", {}))
            elif self._stopped:
                self._show(cell, "stopped", {})
            else:
                self.failures.append(f"{cell.label}: {error}")
                self._show(cell, "failed", {})

    def ask_to_stop(self) -> None:
        """Let the processes save, and start no more."""
        self._signal(signal.SIGINT)

    def terminate(self) -> None:
        """End the processes, and start no more."""
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running.values():
                process.send_signal(number)

    def _advance(self, cell: Cell, message: dict[str, Any]) -> None:
        with self._lock:
            self._progress[cell.key] = min(message["step"], cell.size)
            self._show(cell, message.get("state", "running"), message.get("figures", {}))

    def _show(self, cell: Cell, state: str, figures: Mapping[str, Any]) -> None:
        self._display.update(cell.key, state, self._progress.get(cell.key, 0), figures)


class _OneLine:
    """The display of a list whose runs nobody looks at one by one: all of them in one live line."""

    def __init__(self, cells: Sequence[Cell], unit: str, finished: Collection[Hashable], quiet: bool) -> None:
        self._cells = {cell.key: cell for cell in cells}
        self._progress = {cell.key: cell.size for cell in cells if cell.key in finished}
        self._before = set(self._progress)
        total = sum(cell.size for cell in self._cells.values())
        self._line = LiveLine(total, unit, done=sum(self._progress.values()), quiet=quiet)

    def __enter__(self) -> _OneLine:
        self._line.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.__exit__(kind, error, trace)

    def update(self, key: Hashable, state: str, done: int, figures: Mapping[str, Any]) -> None:
        """Count the units; runs that had ended before, and those that have nothing to tell yet, change nothing."""
        if key in self._before or state in ("starting", "failed", "stopped"):
            return
        self._progress[key] = done
        ended = sum(1 for other, units in self._progress.items() if units >= self._cells[other].size)
        self._line.update(sum(self._progress.values()), runs=f"{ended}/{len(self._cells)}", now=self._cells[key].label)


def _wait(futures: Sequence[Future[None]], stop: StopRequest) -> None:
    """Until all have ended or Ctrl-C came; raises what one of them raised."""
    pending = set(futures)
    while pending and not stop:
        ended, pending = wait(pending, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
        for future in ended:
            future.result()


def _start(
    worker: str, cell: Cell, folder: Path, variables: Mapping[str, str], own_session: bool
) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", worker, json.dumps(asdict(cell.job)), str(folder)]
    pipe = subprocess.PIPE
    # In a session of its own a process does not get the terminal's Ctrl-C besides ours, which would be its second.
    return subprocess.Popen(
        words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=variables, start_new_session=own_session
    )


def _follow(process: subprocess.Popen[str], on_step: Callable[[dict[str, Any]], None]) -> tuple[Line | None, str]:
    """Read a worker's lines until it ends; returns its result, or None and the end of what it said."""
    assert process.stdout is not None
    assert process.stderr is not None
    said: list[str] = []
    drain = threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True)
    drain.start()
    result = None
    with process:  # closes the pipes
        for line in process.stdout:
            message = json.loads(line) if line.startswith("{") else {}
            if "step" in message:
                on_step(message)
            result = message.get("result", result)
        code = process.wait()
        drain.join()
    return (result if code == 0 else None), "".join(said[-3:]).strip() or f"exit status {code}"
