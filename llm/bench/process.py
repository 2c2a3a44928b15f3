"""Two sides of a benchmark in fresh processes that work in turns.

The speed of a shared machine drifts by the second, so a comparison of minutes with minutes says little. Both processes
start, warm up, and then take turns of a second or so while the other one waits; their ratio is taken turn by turn. Each
has its own peak memory.
"""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
import tempfile
from typing import TextIO

from r2vpo.errors import R2VPOError
from r2vpo.llm.bench.turns import Figures, Task, Turns
from r2vpo.llm.bench.workload import Workload

ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}


class Contestant:
    """A measurement in a process of its own, seen from outside."""

    def __init__(self, task: Task) -> None:
        self.task = task
        # A pipe that nobody reads would block it.
        self._said = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 (closed by stop)
        threads = {"OMP_NUM_THREADS": str(task.get("threads") or task.get("workload", {}).get("threads", 1))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "r2vpo.llm.bench.process", json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env={**os.environ, **ENVIRONMENT, **threads},
        )

    def wait_until_ready(self) -> None:
        """Until it has warmed up and waits for its first turn."""
        self._line()

    def take_turn(self, first: bool) -> Figures:
        """Let it work for one turn, and nothing after that, and return what it reports.

        Raises:
            R2VPOError: It failed.
        """
        if not first:
            self._say("go on")
            self._line()
        self._say("go")
        return self._line()

    def result(self) -> Figures:
        """Let it end, and return what it reports of the whole."""
        self._say("go on")
        figures = self._line()
        self._process.wait()
        return figures

    def stop(self) -> None:
        """End it, whatever it is doing."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
        self._said.close()

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail()

    def _line(self) -> Figures:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._fail()
        figures: Figures = json.loads(line)
        return figures

    def _fail(self) -> None:
        status = self._process.wait()
        self._said.seek(0)
        lines = [line.strip() for line in self._said if line.strip()]
        raise R2VPOError(f"measuring {self.task} failed: {lines[-1] if lines else f'exit status {status}'}")


def contest(ours: Task, peer: Task, turns: int) -> list[tuple[list[Figures], Figures]]:
    """Let two measurements take turns in fresh processes, the one that goes first changing every time.

    Returns:
        For each side, figures of every turn and of the whole.

    Raises:
        R2VPOError: One of them failed.
    """
    sides = []
    try:
        for task in (ours, peer):
            sides.append(Contestant(task))
        for side in sides:
            side.wait_until_ready()
        reports: list[list[Figures]] = [[], []]
        for turn in range(turns):
            for index in (0, 1) if turn % 2 == 0 else (1, 0):
                reports[index].append(sides[index].take_turn(first=turn == 0))
        return [(report, side.result()) for report, side in zip(reports, sides, strict=True)]
    finally:
        for side in sides:
            side.stop()


def measure(task: Task, turns: Turns) -> Figures:
    """Run a task in this process."""
    arguments = {name: value for name, value in task.items() if name != "measure"}
    if "workload" in arguments:
        arguments["workload"] = Workload(**arguments["workload"])
    figures: Figures = pkgutil.resolve_name(task["measure"])(**arguments, turns=turns)
    return figures


class _PipeTurns:
    """This process's side of a :class:`Contestant`."""

    def __init__(self, output: TextIO) -> None:
        self._output = output

    def start(self) -> None:
        self.say({"ready": True})
        self._wait()

    def finish(self, figures: Figures) -> None:
        # Even the end of a process takes time from the other side's turn.
        self.say(figures)
        self._wait()

    def _wait(self) -> None:
        if not sys.stdin.readline():
            raise SystemExit("the benchmark went away")

    def say(self, figures: Figures) -> None:
        print(json.dumps(figures), file=self._output, flush=True)


def main() -> None:
    """Run the task of the command line."""
    # Libraries print to standard output; the contest needs it for itself.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    turns = _PipeTurns(output)
    turns.say(measure(json.loads(sys.argv[1]), turns))


if __name__ == "__main__":
    main()
