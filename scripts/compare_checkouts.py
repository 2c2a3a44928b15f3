"""Whether two checkouts train alike: the same short runs in both, compared to the last digit, and runs handed over.

    git worktree add /tmp/before v0.1.0
    python scripts/compare_checkouts.py /tmp/before .

Every case trains with fixed seeds in each checkout and compares what metrics.jsonl holds, times aside, and the results
of the closing evaluation. Every ``resume`` case kills the run of the first checkout between two iterations, lets the
second finish it, and compares with the first one's uninterrupted run. Exits with 1 if anything differs.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

_CONTROL = "control train --env Hopper-v5 --seed 3 --eval-episodes 2 --quiet --total-steps"
_LLM = "llm train --seed 3 --eval-problems 32 --eval-samples 0 --checkpoint-seconds 0 --quiet --total-rollouts 2048"
CASES = {
    "control-on-policy": f"{_CONTROL} 12288 --algo on-policy",
    "control-off-policy": f"{_CONTROL} 12288 --algo off-policy",
    "control-overlap": f"{_CONTROL} 12288 --overlap",
    "control-fast": f"{_CONTROL} 12288 --preset fast",
    "control-ppo-tanh": f"{_CONTROL} 8192 --algo on-policy --objective ppo_clip --action-bounds tanh",
    "control-compiled": f"{_CONTROL} 8192 --gradient-step compiled",
    "llm-off-policy": _LLM,
    "llm-grpo": f"{_LLM} --method grpo",
}
RESUMED = {
    "resume-control": (f"{_CONTROL} 24576 --checkpoint-seconds 0", "control train --quiet --resume"),
    "resume-llm": (_LLM, "llm train --quiet --resume"),
}
PACKAGES = ("envs", "llm", "control")
_RESULTS = ("eval_return_mean", "eval_return_mean_stochastic", "eval_length_mean", "accuracy_greedy", "pass_at_1")


@dataclass(frozen=True)
class Arguments:
    """Compare two checkouts of this repository."""

    before: Annotated[Path, tyro.conf.Positional]
    """The one whose numbers hold."""
    after: Annotated[Path, tyro.conf.Positional]
    """The one to check."""
    only: tuple[str, ...] = (*CASES, *RESUMED)
    """Cases to run."""
    json: Path | None = None
    """Also write the outcome to this file."""


def importable(checkout: Path, folder: Path) -> dict[str, str]:
    """Environment variables under which ``import r2vpo`` is that checkout, whatever is installed."""
    package = folder / "r2vpo"
    package.mkdir(parents=True)
    core = [source for source in (checkout / "r2vpo").iterdir() if source.name not in PACKAGES]
    for source in [*core, *(checkout / name for name in PACKAGES)]:
        (package / source.name).symlink_to(source.resolve())
    return {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def train(environment: dict[str, str], words: str, run_dir: Path | None = None) -> subprocess.Popen[str]:
    """Start one command; in a folder where no checkout lies."""
    command = [sys.executable, "-m", "r2vpo.cli", *words.split(), *(["--run-dir", str(run_dir)] if run_dir else [])]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=environment["PYTHONPATH"], env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for the command; raises SystemExit with what it said when it failed."""
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(process.args)} failed:\n{said[-2000:]}")  # type: ignore[arg-type]


def kill_after_checkpoint(process: subprocess.Popen[str], run_dir: Path, iterations: int) -> None:
    """SIGKILL once that many iterations have been written down and a checkpoint is there."""
    metrics, checkpoint = run_dir / "metrics.jsonl", run_dir / "checkpoints" / "latest.zip"
    while process.poll() is None:
        if checkpoint.exists() and metrics.exists() and metrics.read_text().count("\n") >= iterations:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return
        time.sleep(0.02)
    raise SystemExit(f"{run_dir.name} ended before it could be killed")


def records(run_dir: Path) -> list[dict[str, Any]]:
    """What must be equal: the metrics of every iteration, and the results of the closing evaluation."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((run_dir / "summary.json").read_text())
    closing = {name: summary[name] for name in _RESULTS if name in summary}
    return [*({name: v for name, v in line.items() if not _is_time(name)} for line in lines), closing]


def differences(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[str]:
    """The first few places in which two runs differ."""
    found = [f"{len(before)} lines, then {len(after)}"] if len(before) != len(after) else []
    for i, (one, other) in enumerate(zip(before, after, strict=False)):
        for name in sorted(one.keys() | other.keys()):
            if not _same(one.get(name), other.get(name)):
                found.append(f"line {i}, {name}: {one.get(name)!r}, then {other.get(name)!r}")
    return found[:5]


def _is_time(name: str) -> bool:
    return name == "time" or name.endswith(("seconds", "_per_second"))


def _same(one: Any, other: Any) -> bool:
    return one == other or (isinstance(one, float) and isinstance(other, float) and math.isnan(one + other))


def main() -> int:
    """Run the cases one after the other; returns the exit status."""
    arguments = tyro.cli(Arguments, description=__doc__)
    outcome: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        before = importable(arguments.before, root / "import-before")
        after = importable(arguments.after, root / "import-after")
        for case in arguments.only:
            one, other = root / "before" / case, root / "after" / case
            if case in RESUMED:
                start, resume = RESUMED[case]
                finish(train(before, start, one))
                kill_after_checkpoint(train(before, start, other), other, iterations=2)
                finish(train(after, f"{resume} {other}"))
            else:
                finish(train(before, CASES[case], one))
                finish(train(after, CASES[case], other))
            expected = records(one)
            found = differences(expected, records(other))
            outcome[case] = {"lines": len(expected), "values": sum(map(len, expected)), "differences": found}
            print(f"{case:<20} {outcome[case]['values']:>6} values  {found or 'the same'}", flush=True)
            shutil.rmtree(one)
            shutil.rmtree(other)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(outcome, indent=1) + "\n")
    return int(any(case["differences"] for case in outcome.values()))


if __name__ == "__main__":
    sys.exit(main())
