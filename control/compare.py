"""Several algorithms on the same tasks, steps and seeds: a resumable list of runs, a table and a picture."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from r2vpo.checkpoint import write_text_atomically
from r2vpo.control.commands import CompareCommand
from r2vpo.control.comparison import plot_comparison, print_table, summarise_lines
from r2vpo.control.jobs import Job
from r2vpo.control.peers import PEERS, require_installed
from r2vpo.control.presets import VARIANTS
from r2vpo.envs.making import make_env, require_box_spaces
from r2vpo.errors import ConfigError, R2VPOError
from r2vpo.progress import LiveLine
from r2vpo.provenance import machine_description, package_versions

RESULTS = "runs.jsonl"
COMPARISON = "comparison.json"
PICTURE = "comparison.png"


def compare(command: CompareCommand) -> dict[str, Any]:
    """Run what is missing, then summarise everything; returns what comparison.json holds.

    Raises:
        ConfigError: Unknown or missing algorithm, unknown environment, or a count below 1.
        R2VPOError: Runs failed; the others are finished and saved first.
    """
    _check(command)
    command.out.mkdir(parents=True, exist_ok=True)
    jobs = [
        Job(algo, env, seed, command.total_steps, command.episodes)
        for seed in range(command.seeds)
        for env in command.env
        for algo in command.algos
    ]
    results = command.out / RESULTS
    failures = run_jobs(jobs, results, command.out / "runs", command.workers, command.quiet)
    wanted = {job.key for job in jobs}
    lines = [line for line in read_results(results) if Job(*_identity(line)).key in wanted]
    document = {"comparison": summarise_lines(lines), "versions": package_versions(), "machine": machine_description()}
    text = json.dumps(document, indent=1)
    write_text_atomically(command.out / COMPARISON, text)
    if command.json is not None:
        write_text_atomically(command.json, text)
    if lines:
        print_table(document["comparison"])
        plot_comparison(lines, command.out / PICTURE)
        for path in (results, command.out / COMPARISON, command.out / PICTURE):
            print(path)
    if failures:
        raise R2VPOError(f"{len(failures)} of {len(jobs)} runs failed; the first: {failures[0]}")
    return document


def read_results(path: Path) -> list[dict[str, Any]]:
    """Study lines of a file; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1] if line]


def run_jobs(jobs: Sequence[Job], results: Path, folder: Path, workers: int, quiet: bool = False) -> list[str]:
    """Run every job that has no line in ``results`` yet, adding a line as each ends; returns error messages."""
    lines = read_results(results)
    if results.exists():
        write_text_atomically(results, "".join(json.dumps(line) + "\n" for line in lines))
    done = {Job(*_identity(line)).key for line in lines}
    missing = [job for job in jobs if job.key not in done]
    total = sum(job.total_steps for job in jobs)
    progress = {job.key: job.total_steps for job in jobs if job.key in done}
    lock, failures, running = threading.Lock(), [], []
    live = LiveLine(total, "steps", done=sum(progress.values()), quiet=quiet)

    def work(job: Job) -> None:
        process = _start(job, folder)
        with lock:
            running.append(process)
        try:
            result, error = _follow(process, lambda step: _advance(job, step))
        finally:
            with lock:
                running.remove(process)
        with lock:
            if result is None:
                failures.append(f"{job.algo} on {job.env}, seed {job.seed}: {error}")
                return
            with results.open("a") as file:
                file.write(json.dumps(result) + "\n")
        _advance(job, job.total_steps)

    def _advance(job: Job, step: int) -> None:
        with lock:
            progress[job.key] = min(step, job.total_steps)
            finished = sum(1 for key, value in progress.items() if value >= key[3])
            live.update(sum(progress.values()), runs=f"{finished}/{len(jobs)}", now=f"{job.algo} {job.env}")

    with live, ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, job) for job in missing]
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


def _start(job: Job, folder: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "r2vpo.control.worker", json.dumps(asdict(job)), str(folder)]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def _follow(process: subprocess.Popen[str], on_step: Any) -> tuple[dict[str, Any] | None, str]:
    """Read a worker's lines until it ends; returns its result, or None and the end of what it said."""
    assert process.stdout is not None
    assert process.stderr is not None
    said: list[str] = []
    drain = threading.Thread(target=lambda: said.extend(process.stderr), daemon=True)
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


def _identity(line: dict[str, Any]) -> tuple[str, str, int, int]:
    return line["algo"], line["env"], line["seed"], line["total_steps"]


def _check(command: CompareCommand) -> None:
    for field in ("seeds", "total_steps", "workers", "episodes"):
        if getattr(command, field) < 1:
            raise ConfigError(field, getattr(command, field), "a whole number of at least 1")
    for algo in command.algos:
        if algo in PEERS:
            require_installed(algo)
        elif algo not in VARIANTS:
            raise ConfigError("algos", algo, f"one of {', '.join([*VARIANTS, *PEERS])}")
    for env_id in command.env:
        env = make_env(env_id)
        require_box_spaces(env)
        env.close()
