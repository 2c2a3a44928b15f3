"""Runs of a study that train nothing: they end, fail or wait, as their job says."""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from r2vpo.errors import R2VPOError
from r2vpo.runs.workers import Job, say, serve


@dataclass(frozen=True)
class Cell(Job):
    worker = "study_worker"

    seed: int
    how: str = "end"
    size = 10
    key = folder = property(lambda self: f"seed{self.seed}")
    title = property(lambda self: f"seed {self.seed}")

    @classmethod
    def of_line(cls, line):
        return cls(line["seed"])


def run(job, folder):
    say(5, "training", {"return": 1.0})
    print("a library greets on standard output")
    if job.how == "fail":
        raise R2VPOError("the disk is full")
    try:
        if job.how == "wait":
            Path(folder, f"pid{os.getpid()}").touch()
        while job.how == "wait":
            time.sleep(0.05)
    except KeyboardInterrupt:
        Path(folder, f"saved{job.seed}").touch()
        raise
    return {"seed": job.seed, "threads": os.environ["OMP_NUM_THREADS"]}


def wait_for_ever(folder):
    """Three runs that end by a signal alone, two at a time."""
    from r2vpo.runs.study import run_jobs  # loads torch, which the runs need not wait for

    try:
        run_jobs([Cell(seed, "wait") for seed in range(3)], folder, 2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    sys.exit(serve(Cell, run))
