"""Runs in processes of their own: how they are started and stopped, and what they say meanwhile, a JSON line each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from r2vpo.errors import R2VPOError

Line = dict[str, Any]
"""What one run left: its identity, its result, and where that came from."""

_HAS_SIGNALS = os.name == "posix"
"""Where there are none, the console hands Ctrl-C to the workers besides us."""


@dataclass(frozen=True)
class Job(ABC):
    """What identifies one run: subclasses are dataclasses of plain values, which the worker gets as JSON."""

    worker: ClassVar[str]
    """Module that runs it, through :func:`serve`."""
    unit: ClassVar[str] = "steps"
    """Of its size."""

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """Two jobs with the same key are the same experiment."""

    @property
    @abstractmethod
    def title(self) -> str:
        """For people."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Units of work."""

    @property
    @abstractmethod
    def folder(self) -> str:
        """Name of its run directory."""

    @classmethod
    @abstractmethod
    def of_line(cls, line: Line) -> Self:
        """The job that a line is the result of, as far as its key needs it."""


def serve(job_of: Callable[..., Any], run: Callable[[Any, Path], Line]) -> int:
    """The main of a worker: takes the job as JSON and a folder from the command line; returns the exit status.

    Args:
        job_of: Makes a job from its fields.
        run: Does it, with :func:`say` on the way, and returns its line; that line's own ``"figures"`` stay on display.
            Goes on where a killed run of the same job stopped, if it left something in the folder.
    """
    _die_with_parent()
    job, folder = job_of(**json.loads(sys.argv[1])), Path(sys.argv[2])
    try:
        line = run(job, folder)
    except KeyboardInterrupt:
        return 130
    except R2VPOError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"result": line}), flush=True)
    return 0


def say(step: int, state: str = "running", figures: Mapping[str, Any] | None = None) -> None:
    """From a worker to the table: units done, a word for what it does, and figures by name."""
    print(json.dumps({"step": step, "state": state, "figures": dict(figures or {})}), flush=True)


class Workers:
    """The processes under way, and what became of those that ended.

    Args:
        results: File that gets a line as each run ends.
        folder: Where runs may keep what they need to go on after a kill.
        show: Told key, state, units done and figures of a run whenever they change; calls never overlap.
    """

    def __init__(
        self, results: Path, folder: Path, show: Callable[[Hashable, str, int, Mapping[str, Any]], None]
    ) -> None:
        self.failures: list[str] = []
        """What the runs that failed said last."""
        self._results, self._folder, self._show = results, folder, show
        self._lock = threading.Lock()
        self._running: dict[Hashable, subprocess.Popen[str]] = {}
        self._stopped = False

    def work(self, job: Job, done: int) -> None:
        """Run one job to its end, in a thread of its own; nothing once the list was stopped.

        Args:
            job: What to do.
            done: Units that an earlier process did.
        """
        with self._lock:
            if self._stopped:
                return
            process = self._running[job.key] = self._start(job)
            self._show(job.key, "starting", done, {})

        def advance(message: dict[str, Any]) -> None:
            nonlocal done
            with self._lock:
                done = min(message["step"], job.size)
                self._show(job.key, message["state"], done, message["figures"])

        try:
            line, error = _follow(process, advance)
        finally:
            with self._lock:
                del self._running[job.key]
        with self._lock:
            if line is not None:
                with self._results.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                self._show(job.key, "done", job.size, line.get("figures", {}))
            elif self._stopped:
                self._show(job.key, "stopped", done, {})
            else:
                self.failures.append(f"{job.title}: {error}")
                self._show(job.key, "failed", done, {})

    def ask_to_stop(self) -> None:
        """Let the processes save, and start no more."""
        self._end(lambda process: process.send_signal(signal.SIGINT) if _HAS_SIGNALS else None)

    def terminate(self) -> None:
        """End the processes, and start no more."""
        self._end(lambda process: process.terminate())

    def _end(self, how: Callable[[subprocess.Popen[str]], None]) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running.values():
                how(process)

    def _start(self, job: Job) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", job.worker, json.dumps(asdict(job)), str(self._folder)]
        pipe = subprocess.PIPE
        # A core each; and in a session of its own a process does not get the terminal's Ctrl-C besides ours.
        return subprocess.Popen(
            words,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
            errors="replace",
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=_HAS_SIGNALS,
        )


def _die_with_parent() -> None:
    """Standard input is a pipe that only the parent holds open; when it closes, nobody waits any more."""

    def watch() -> None:
        # Not sys.stdin: a thread waiting in it would hold its lock when the interpreter shuts down.
        while os.read(0, 1024):
            continue
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


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
