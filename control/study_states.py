"""How far each cell of a study has come, without running anything."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path

from r2vpo.control.jobs import Job
from r2vpo.control.study_eta import StudyForecast
from r2vpo.control.study_runs import RESULTS, lines_of, steps_done
from r2vpo.progress import clock_text


def print_states(jobs: Sequence[Job], out: Path, workers: int) -> None:
    """Print a line for each cell (done, half done with its steps, waiting), and the time left.

    Args:
        jobs: In the order in which they start.
        out: Folder of the study.
        workers: Processes at a time, for the time left.
    """
    finished = {Job.of_line(line).key for line in lines_of(jobs, out)}
    open_rows: dict[Hashable, tuple[int, float | None]] = {}
    counts = {"done": 0, "half done": 0, "waiting": 0}
    for job in jobs:
        steps = job.total_steps if job.key in finished else steps_done(job, out)
        state = "done" if job.key in finished else "half done" if steps else "waiting"
        if state != "done":
            open_rows[job.key] = steps, None
        counts[state] += 1
        print(f"{state:<10}  {f'{steps:,}/{job.total_steps:,}':>21}  {job.label}")
    left = StudyForecast(jobs, out / RESULTS, workers)(open_rows)
    eta = "unknown, nothing has finished yet" if left is None else f"{clock_text(left)} with {workers} at a time"
    said = ", ".join(f"{count} {state}" for state, count in counts.items())
    print(f"{said}; {'nothing left to do' if not open_rows else f'time left {eta}'}")
