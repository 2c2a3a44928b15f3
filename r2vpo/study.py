"""A resumable list of runs: each in a process of its own, a JSON line in a file as each ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from r2vpo.checkpoint import write_text_atomically
from r2vpo.progress import LiveLine

Line = dict[str, Any]
"""What one run left: its identity, its result, and where that came from."""


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

    Returns:
        Error messages of the runs that failed.
    """
    lines = read_results(results)
    if results.exists():
        write_text_atomically(results, "".join(json.dumps(line) + "\n" for line in lines))
    done = {key_of_line(line) for line in lines}
    sizes = {cell.key: cell.size for cell in cells}
    progress = {cell.key: cell.size for cell in cells if cell.key in done}
    lock, failures, running = threading.Lock(), [], []
    live = LiveLine(sum(sizes.values()), unit, done=sum(progress.values()), quiet=quiet)

    def work(cell: Cell) -> None:
        process = _start(worker, cell, folder)
        with lock:
            running.append(process)
        try:
            result, error = _follow(process, lambda step: advance(cell, step))
        finally:
            with lock:
                running.remove(process)
        with lock:
            if result is None:
                failures.append(f"{cell.label}: {error}")
                return
            with results.open("a") as file:
                file.write(json.dumps(result) + "\n")
        advance(cell, cell.size)

    def advance(cell: Cell, step: int) -> None:
        with lock:
            progress[cell.key] = min(step, cell.size)
            finished = sum(1 for key, value in progress.items() if value >= sizes[key])
            live.update(sum(progress.values()), runs=f"{finished}/{len(cells)}", now=cell.label)

    with live, ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, cell) for cell in cells if cell.key not in done]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            with lock:
                for process in running:
                    process.terminate()
            raise
    return failures


def say(message: dict[str, Any]) -> None:
    """From a worker to :func:`run_cells`: ``{"step": units done}``, and at the end ``{"result": line}``."""
    print(json.dumps(message), flush=True)


def die_with_parent() -> None:
    """In a worker: standard input is a pipe that only the parent holds open; when it closes, nobody waits any more."""

    def watch() -> None:
        # Not sys.stdin: a thread waiting in it would hold its lock when the interpreter shuts down.
        while os.read(0, 1024):
            continue
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _start(worker: str, cell: Cell, folder: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", worker, json.dumps(asdict(cell.job)), str(folder)]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def _follow(process: subprocess.Popen[str], on_step: Callable[[int], None]) -> tuple[Line | None, str]:
    """Read a worker's lines until it ends; returns its result, or None and the end of what it said."""
    assert process.stdout is not None
    assert process.stderr is not None
    said: list[str] = []
    drain = threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True)
    drain.start()
    result = None
    for line in process.stdout:
        message = json.loads(line) if line.startswith("{") else {}
        if "step" in message:
            on_step(message["step"])
        result = message.get("result", result)
    code = process.wait()
    drain.join()
    return (result if code == 0 else None), "".join(said[-3:]).strip() or f"exit status {code}"
