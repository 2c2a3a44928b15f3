"""Kill training at random moments, resume it, and compare with the run that nobody touched, to the last byte.

    python scripts/crash_test.py --json benchmarks/crash_test.json

Every trial starts a short run with the same seed, ends its process after a random time, as often as ``--kills`` says,
goes on from what lies on the disk each time, and lets the last one finish. Metrics, times aside, and everything in the
last checkpoint must then equal those of the uninterrupted run. ``SIGTERM`` and ``SIGINT`` must besides leave a
checkpoint of the iteration that was under way, and the exit status that says so. Two processes on one directory: the
second is refused and the first is not disturbed. A full disk, where a small file system can be mounted: an error that
names the file, and a run that goes on once there is room.
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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from r2vpo.runs.checkpoint import load_tree
from r2vpo.runs.directory import CHECKPOINT, CONFIG, METRICS, SUMMARY
from r2vpo.runs.provenance import machine_description, package_versions, source_commit

_CONTROL = (
    "control train --env Pendulum-v1 --seed 1 --total-steps 6144 --num-envs 4 --eval-episodes 1 --engine gymnasium"
)
_LLM = "llm train --seed 1 --total-rollouts 1024 --prompts-per-iteration 16 --minibatch-size 64 --eval-every 0"
RUNS = {
    "control": f"{_CONTROL} --checkpoint-seconds 0 --quiet",
    "llm": f"{_LLM} --eval-samples 0 --eval-problems 16 --checkpoint-seconds 0 --quiet",
}
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 130, signal.SIGKILL: -9}


@dataclass(frozen=True)
class Arguments:
    """How often to try what."""

    control: int = 100
    """Control runs killed with SIGKILL."""
    llm: int = 30
    """Language-model runs killed with SIGKILL."""
    asked: int = 20
    """Control runs ended with SIGTERM, and as many with SIGINT."""
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


def command_for(backend: str, run_dir: Path) -> str:
    """What a user types next: train, or resume where there is something to resume."""
    if (run_dir / CONFIG).exists():
        return f"{backend} train --quiet --resume {run_dir}"
    return f"{RUNS[backend]} --run-dir {run_dir}"


def finish(backend: str, run_dir: Path) -> str:
    """Run until the end; returns what went wrong, or nothing."""
    process = start(command_for(backend, run_dir))
    _, said = process.communicate()
    return "" if process.returncode == 0 else f"exit status {process.returncode}: {said[-500:]}"


def outcome(run_dir: Path) -> dict[str, Any]:
    """Everything a run computed, as comparable values by name, without the times."""
    lines = [json.loads(line) for line in (run_dir / METRICS).read_text().splitlines()]
    summary = json.loads((run_dir / SUMMARY).read_text())
    found = {"metrics": lines, "summary": {k: v for k, v in summary.items() if k != "versions"}}
    values = dict(_leaves({**found, "checkpoint": load_tree(run_dir / CHECKPOINT)}, ""))
    return {name: value for name, value in values.items() if not _is_time(name)}


def _leaves(tree: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(tree, dict):
        return [leaf for name, value in tree.items() for leaf in _leaves(value, f"{path}/{name}")]
    if isinstance(tree, list | tuple):
        return [leaf for i, value in enumerate(tree) for leaf in _leaves(value, f"{path}/{i}")]
    return [(path, np.asarray(tree).tobytes() if hasattr(tree, "shape") else repr(tree))]


def _is_time(name: str) -> bool:
    last = name.rsplit("/", 1)[-1]
    return last in ("time", "started", "reason") or last.endswith(("seconds", "_per_second"))


def differences(run_dir: Path, expected: dict[str, Any]) -> str:
    """The first places in which a run differs from the uninterrupted one, or nothing."""
    found = outcome(run_dir)
    names = [name for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]
    return ", ".join(names[:3])


def killed(backend: str, run_dir: Path, expected: dict[str, Any], moments: list[float], number: signal.Signals) -> str:
    """One trial; returns what went wrong, or nothing."""
    for moment in moments:
        process = start(command_for(backend, run_dir))
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        _, said = process.communicate()
        # Before training has begun, Python ends on a signal by itself.
        began = (run_dir / METRICS).exists()
        if process.returncode not in ((0, STATUS[number]) if began else (0, STATUS[number], -number, 1)):
            return f"exit status {process.returncode} after {number.name}: {said[-500:]}"
        if began and number != signal.SIGKILL and not (run_dir / CHECKPOINT).exists():
            return f"no checkpoint after {number.name}"
    return finish(backend, run_dir) or differences(run_dir, expected)


def started_twice(run_dir: Path, expected: dict[str, Any]) -> str:
    """The second process on a directory is refused, and the first ends as if it had not been there."""
    first = start(command_for("control", run_dir))
    while not (run_dir / METRICS).exists() and first.poll() is None:
        time.sleep(0.05)
    second = start(f"control train --quiet --resume {run_dir}")
    _, said = second.communicate()
    first.communicate()
    if second.returncode != 1 or "in use" not in said:
        return f"the second was not refused: {second.returncode} {said[-300:]}"
    return f"exit status {first.returncode}" if first.returncode else differences(run_dir, expected)


def full_disk(folder: Path, expected: dict[str, Any]) -> str:
    """A run on a file system that is too small ends with an error; with more room it goes on to the same end."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        return "skipped: no file system can be mounted here"
    try:
        run_dir = folder / "run"
        process = start(command_for("control", run_dir))
        _, said = process.communicate()
        if process.returncode != 1 or "Traceback" in said:
            return f"exit status {process.returncode}: {said[-500:]}"
        subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
        return finish("control", run_dir) or differences(run_dir, expected)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def main() -> int:
    """Run every trial; returns 1 if one of them lost something."""
    arguments = tyro.cli(Arguments, description=__doc__)
    dice, report = random.Random(arguments.seed), {}
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(arguments.workers) as pool:
        root = Path(name)
        expected, seconds = {}, {}
        for backend in RUNS:
            started = time.monotonic()
            problem = finish(backend, root / backend)
            if problem:
                raise SystemExit(f"the uninterrupted run failed: {problem}")
            seconds[backend], expected[backend] = time.monotonic() - started, outcome(root / backend)

        def trial(backend: str, number: signal.Signals, index: int) -> Callable[[], str]:
            moments = [dice.uniform(0.3, seconds[backend]) for _ in range(dice.randint(1, arguments.kills))]
            run_dir = root / f"{backend}-{number.name}-{index}"

            def work() -> str:
                problem = killed(backend, run_dir, expected[backend], moments, number)
                shutil.rmtree(run_dir, ignore_errors=True)
                return problem

            return work

        control = expected["control"]
        trials = {
            "control SIGKILL": [trial("control", signal.SIGKILL, i) for i in range(arguments.control)],
            "llm SIGKILL": [trial("llm", signal.SIGKILL, i) for i in range(arguments.llm)],
            "control SIGTERM": [trial("control", signal.SIGTERM, i) for i in range(arguments.asked)],
            "control SIGINT": [trial("control", signal.SIGINT, i) for i in range(arguments.asked)],
            "two processes on one directory": [lambda: started_twice(root / "twice", control)],
            "full disk": [lambda: full_disk(root / "small", control)],
        }
        for kind, works in trials.items():
            problems = [problem for problem in pool.map(lambda work: work(), works) if problem]
            report[kind] = {
                "trials": len(works),
                "as uninterrupted": len(works) - len(problems),
                "problems": problems[:5],
            }
            print(f"{kind:<32} {len(works) - len(problems)} of {len(works)}  {problems[:2] or ''}", flush=True)
    document = {**report, "seed": arguments.seed, "versions": package_versions(), "machine": machine_description()}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({**document, "commit": source_commit()}, indent=1) + "\n")
    return int(any(kind["problems"] for kind in report.values()))


if __name__ == "__main__":
    sys.exit(main())
