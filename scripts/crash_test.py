"""Kill training at random moments, resume it, and compare with the run that nobody touched, to the last byte.

    python scripts/crash_test.py --json benchmarks/crash_test.json

Every trial starts a short run with the same seed, ends its process at a random moment, as often as ``--kills`` says,
goes on from what lies on the disk each time, and lets the last one finish. Metrics, times aside, and everything in the
last checkpoint must then equal those of the uninterrupted run; of a study or a comparison, the lines besides.
``SIGTERM`` and ``SIGINT`` must also leave a checkpoint of the iteration that was under way, and the exit status that
says so. Two processes on one directory: the second is refused and the first is not disturbed. Where a file system can
be mounted, a full one and a read-only one: an error that names the place, and a run that goes on once it can.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from r2vpo.control.experiments.study import STUDY
from r2vpo.runs.checkpoint import load_tree
from r2vpo.runs.directory import CHECKPOINT, CONFIG, METRICS, SUMMARY
from r2vpo.runs.provenance import machine_description, package_versions, source_commit
from r2vpo.runs.study import COMPARISON, RESULTS, read_results


@dataclass(frozen=True)
class Task:
    """Commands on a folder, which is DIR in them."""

    first: str
    again: str
    begun: str
    """File in the folder that says that there is something to go on with."""

    def words(self, folder: Path) -> str:
        """What a user types next."""
        return (self.again if (folder / self.begun).exists() else self.first).replace("DIR", str(folder))


_PENDULUM = "num_envs=4 engine=gymnasium checkpoint_seconds=0"
_STUDY = f"control study --env Pendulum-v1 --algos r2vpo-off ppo --seeds 1 --episodes 1 --quiet --set {_PENDULUM}"
_SUMS = "--seed 1 --total-rollouts 1024 --prompts-per-iteration 16 --minibatch-size 64 --eval-every 0 --eval-samples 0"
_METHODS = "llm compare --methods r2vpo-off grpo --seeds 1 --total-rollouts 2048 --quiet --out DIR"
TASKS = {
    "control": Task(
        "control train --env Pendulum-v1 --seed 1 --total-steps 6144 --num-envs 4 --eval-episodes 1 --engine gymnasium"
        " --checkpoint-seconds 0 --quiet --run-dir DIR",
        "control train --quiet --resume DIR",
        CONFIG,
    ),
    "llm": Task(
        f"llm train {_SUMS} --eval-problems 16 --checkpoint-seconds 0 --quiet --run-dir DIR",
        "llm train --quiet --resume DIR",
        CONFIG,
    ),
    "control study": Task(f"{_STUDY} --total-steps 12288 --out DIR", "control study --quiet --resume DIR", STUDY),
    "llm compare": Task(_METHODS, _METHODS, RESULTS),
}


@dataclass(frozen=True)
class Arguments:
    """How often to try what."""

    control: int = 100
    """Control runs killed with SIGKILL."""
    llm: int = 30
    """Language-model runs killed with SIGKILL."""
    asked: int = 20
    """Control runs ended with SIGTERM, and as many with SIGINT."""
    studies: int = 5
    """Studies, and comparisons of language models, killed with SIGKILL."""
    kills: int = 2
    """At most so many in each run."""
    workers: int = 2
    """Trials at a time."""
    seed: int = 0
    """Of the moments."""
    json: Path | None = None
    """Also write the outcome to this file."""


def start(words: str) -> subprocess.Popen[str]:
    """Start one r2vpo command."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "r2vpo.cli", *words.split()]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def end(words: str) -> tuple[int, str]:
    """Run one r2vpo command to its end; returns its status and what it said on standard error."""
    process = start(words)
    said = process.communicate()[1]
    return process.returncode, said[-500:]


def finish(task: Task, folder: Path) -> str:
    """Run until the end; returns what went wrong, or nothing."""
    status, said = end(task.words(folder))
    return f"exit status {status}: {said}" if status else ""


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that was computed in a folder, as comparable values by name, without the times."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob(METRICS)):
        summary = json.loads((path.parent / SUMMARY).read_text())
        found[str(path.parent.relative_to(folder))] = {
            "metrics": [json.loads(line) for line in path.read_text().splitlines()],
            "summary": {name: value for name, value in summary.items() if name != "versions"},
            "checkpoint": load_tree(path.parent / CHECKPOINT),
        }
    if (folder / RESULTS).exists():
        found["lines"] = sorted(read_results(folder / RESULTS), key=lambda line: json.dumps(line["config"]))
        found["comparison"] = json.loads((folder / COMPARISON).read_text())
    return {name: value for name, value in _leaves(found, "") if not _is_time(name)}


def _leaves(tree: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(tree, dict):
        return [leaf for name, value in tree.items() for leaf in _leaves(value, f"{path}/{name}")]
    if isinstance(tree, list | tuple):
        return [leaf for i, value in enumerate(tree) for leaf in _leaves(value, f"{path}/{i}")]
    return [(path, np.asarray(tree).tobytes() if hasattr(tree, "shape") else repr(tree))]


def _is_time(name: str) -> bool:
    last = name.rsplit("/", 1)[-1]
    return last in ("time", "started", "reason") or last.endswith(("seconds", "_per_second"))


def differences(folder: Path, expected: dict[str, Any]) -> str:
    """The first places in which a folder differs from the uninterrupted one, or nothing."""
    found = outcome(folder)
    names = [name for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]
    return ", ".join(names[:3])


def iterations(folder: Path) -> int:
    """Lines of metrics in a folder."""
    return sum(path.read_text().count("\n") for path in folder.rglob(METRICS))


@dataclass
class Trials:
    """Of one kind: processes ended at random moments, and gone on with."""

    task: Task
    number: signal.Signals
    expected: dict[str, Any]
    whole: int
    """Lines of metrics of the uninterrupted run; 0 where they are deleted at its end."""
    seconds: float
    """That it took."""
    in_training: list[int] = field(default_factory=list)
    """Lines at the kills after the first that its process wrote and before the last."""

    def run(self, folder: Path, moments: list[tuple[float, float]]) -> str:
        """One trial; returns what went wrong, or nothing.

        Of each kill, ``moments`` says a share of the lines that are missing, and one of the time that a line takes.
        """
        try:
            for moment in moments:
                problem = self._interrupt(folder, moment)
                if problem:
                    return problem
            return finish(self.task, folder) or differences(folder, self.expected)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _interrupt(self, folder: Path, moment: tuple[float, float]) -> str:
        before, process = iterations(folder), start(self.task.words(folder))
        # Lines first and then time, because the time that a start takes says little where others use the cores too.
        line = before + int(moment[0] * max(self.whole - before, 0))
        while iterations(folder) < line and process.poll() is None:
            time.sleep(0.01)
        try:
            process.wait(timeout=moment[1] * self.seconds / (self.whole if line > before else 1))
        except subprocess.TimeoutExpired:
            process.send_signal(self.number)
        _, said = process.communicate()
        lines, status = iterations(folder), process.returncode
        training = before < lines != self.whole and status != 0
        self.in_training += [lines] if training else []
        if training and self.number != signal.SIGKILL and not (folder / CHECKPOINT).exists():
            return f"no checkpoint after {self.number.name}"
        # A signal ends Python by itself, except while it trains, if it can be handled.
        by_itself = status == -self.number or (status == 1 and "KeyboardInterrupt" in said)
        if status in (0, 130) or (by_itself and (self.number == signal.SIGKILL or not training)):
            return ""
        return f"exit status {status} after {self.number.name} at line {lines}: {said[-500:]}"


def started(run_dir: Path) -> subprocess.Popen[str]:
    """A control run that has its first line of metrics."""
    process = start(TASKS["control"].words(run_dir))
    while not iterations(run_dir) and process.poll() is None:
        time.sleep(0.01)
    return process


def started_twice(run_dir: Path, expected: dict[str, Any]) -> str:
    """The second process on a directory is refused, and the first ends as if it had not been there."""
    first = started(run_dir)
    status, said = end(TASKS["control"].words(run_dir))
    first.communicate()
    if status != 1 or "in use" not in said:
        return f"the second was not refused: {status} {said}"
    return f"exit status {first.returncode}" if first.returncode else differences(run_dir, expected)


_SKIPPED = "skipped, no file system can be mounted here"


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[bool]:
    """A file system in memory, where this process may mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def changed_disk(folder: Path, before: str, after: str, expected: dict[str, Any], begun: bool = False) -> str:
    """A run that a file system with the options ``before`` stops goes on to the same end once it has ``after``.

    With ``begun`` a run was killed in the folder before that.
    """
    with mounted(folder, after if begun else before) as possible:
        if not possible:
            return _SKIPPED
        run_dir = folder / "run"
        if begun:
            process = started(run_dir)
            process.kill()
            process.communicate()
            subprocess.run(["mount", "-o", f"remount,{before}", str(folder)], check=True)
        status, said = end(TASKS["control"].words(run_dir))
        subprocess.run(["mount", "-o", f"remount,{after}", str(folder)], check=True)
        if status != 1 or str(folder) not in said or "Traceback" in said:
            return f"exit status {status}: {said}"
        return finish(TASKS["control"], run_dir) or differences(run_dir, expected)


def main() -> int:
    """Run every trial; returns 1 if one of them lost something."""
    arguments = tyro.cli(Arguments, description=__doc__)
    report: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(arguments.workers) as pool:
        for kind, works, trials in trials_of(arguments, Path(name)):
            problems = [problem for problem in pool.map(lambda work: work(), works) if problem]
            skipped = problems.count(_SKIPPED)
            report[kind] = {"trials": len(works) - skipped, "as uninterrupted": len(works) - len(problems)}
            report[kind] |= {"in training": len(trials.in_training)} if trials else {_SKIPPED: skipped}
            report[kind]["problems"] = [problem for problem in problems if problem != _SKIPPED][:5]
            print(f"{kind:<32} {json.dumps(report[kind])}", flush=True)
    document = {**report, "seed": arguments.seed, "versions": package_versions(), "machine": machine_description()}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({**document, "commit": source_commit()}, indent=1) + "\n")
    return int(any(kind["problems"] for kind in report.values()))


def trials_of(arguments: Arguments, root: Path) -> Iterator[tuple[str, list[Callable[[], str]], Trials | None]]:
    """Each kind of trial: its name, what to call for each, and the kind's counts where something is killed."""
    dice, expected, asked = random.Random(arguments.seed), {}, arguments.asked
    kinds = {
        "control": {"SIGKILL": arguments.control, "SIGTERM": asked, "SIGINT": asked},
        "llm": {"SIGKILL": arguments.llm},
        "control study": {"SIGKILL": arguments.studies},
        "llm compare": {"SIGKILL": arguments.studies},
    }
    for name, numbers in kinds.items():
        began, folder = time.monotonic(), root / name.replace(" ", "-")
        problem = finish(TASKS[name], folder)
        if problem:
            raise SystemExit(f"the uninterrupted {name} failed: {problem}")
        seconds, expected[name] = time.monotonic() - began, outcome(folder)
        for number, count in numbers.items():
            trials = Trials(TASKS[name], signal.Signals[number], expected[name], iterations(folder), seconds)
            works = []
            for i in range(count):
                moments = [(dice.random(), dice.random()) for _ in range(dice.randint(1, arguments.kills))]
                works.append(partial(trials.run, root / f"{folder.name}-{number}-{i}", moments))
            yield f"{name} {number}", works, trials
    control = expected["control"]
    yield "two processes on one directory", [partial(started_twice, root / "twice", control)], None
    full = [partial(changed_disk, root / f"{k}k", f"size={k}k", "size=64m", control) for k in (16, 64, 128, 256)]
    yield "full disk", full, None
    fresh = partial(changed_disk, root / "fresh", "ro", "rw", control)
    begun = partial(changed_disk, root / "begun", "ro", "rw", control, begun=True)
    yield "read-only directory", [fresh, begun], None


if __name__ == "__main__":
    sys.exit(main())
