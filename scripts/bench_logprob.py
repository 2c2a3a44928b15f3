"""Memory and time of per-token log-probs, forward and backward: ours beside the naive way.

The naive way makes logits of all tokens, takes log_softmax and gathers. Every measurement runs in a process of its
own, ours and the naive way in turn, on hidden states and an output layer of the given size; the same process gives
time and peak memory. On the CPU the peak is the growth of the resident set over what the inputs take, on a GPU that
of the allocated memory. Both include the gradients that the caller asked for: of the hidden states always, of the
output layer where it is trained (``[V, H]``, the same for both; where it is not counted in, see ``frozen``).

    python scripts/bench_logprob.py --device cpu --dtype float32
"""

from __future__ import annotations

import json
import resource
import shlex
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from r2vpo.errors import ConfigError, R2VPOError
from r2vpo.runs.progress import LiveLine

MIB = 2**20


@dataclass(frozen=True)
class Bench:
    """Measure log-probs beside the naive way."""

    tokens: int = 2048
    """Tokens to score."""
    vocabulary: int = 151_936
    """Entries of the output layer; the default is Qwen2.5's."""
    hidden: int = 896
    """Width of the hidden states; the default is Qwen2.5-0.5B's."""
    dtype: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """Of hidden states and output layer."""
    device: tuple[Literal["cpu", "cuda"], ...] | None = None
    """None takes the CPU, and the GPU where there is one."""
    head: tuple[Literal["trained", "frozen"], ...] = ("trained", "frozen")
    """Whether the output layer gets a gradient (full fine-tuning) or not (LoRA)."""
    alternations: int = 5
    """Pairs of measurements per case."""
    threads: int = 1
    """Threads of torch on the CPU."""
    json: Path = Path("benchmarks/llm_logprob.json")
    """Write the result to this file."""


@dataclass(frozen=True)
class Measurement:
    """What one process measures."""

    who: Literal["ours", "naive"]
    tokens: int
    vocabulary: int
    hidden: int
    dtype: str
    device: str
    head: str
    threads: int


def measure(task: Measurement) -> dict[str, float]:
    """Seconds and MiB of one forward and backward pass in this process, after one on few tokens."""
    import torch

    torch.set_num_threads(task.threads)
    dtype = getattr(torch, task.dtype)
    hidden = torch.empty(task.tokens, task.hidden, device=task.device, dtype=dtype).normal_().requires_grad_()
    weight = torch.empty(task.vocabulary, task.hidden, device=task.device, dtype=dtype).normal_(std=0.02)
    weight.requires_grad_(task.head == "trained")
    targets = torch.randint(task.vocabulary, (task.tokens,), device=task.device)
    _pass(task.who, hidden[:8].detach().requires_grad_(), weight[:4096].detach(), targets[:8] % 4096)
    before = _memory(task.device, reset=True)
    start = time.perf_counter()
    _pass(task.who, hidden, weight, targets)
    if task.device == "cuda":
        torch.cuda.synchronize()
    return {"seconds": time.perf_counter() - start, "mib": (_memory(task.device) - before) / MIB}


def _pass(who: str, hidden: Any, weight: Any, targets: Any) -> None:
    import torch

    from r2vpo.llm.models.logprob import token_log_probs

    if who == "ours":
        log_probs = token_log_probs(hidden, weight, None, targets)[0]
    else:
        table = torch.nn.functional.linear(hidden, weight).float().log_softmax(-1)
        log_probs = table.gather(1, targets[:, None])
        del table
    log_probs.sum().backward()


def _memory(device: str, reset: bool = False) -> int:
    """Peak in bytes; ``reset`` lets a GPU's peak start at what is held now."""
    if device == "cpu":
        kilobytes = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobytes
    import torch

    torch.cuda.synchronize()
    if reset:
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.max_memory_allocated()


def measure_cases(bench: Bench, device: str, dtype: str, head: str, line: LiveLine, done: int) -> list[dict[str, Any]]:
    """Alternate ours and the naive way; one case for memory, one for time."""
    pairs = []
    for index in range(bench.alternations):
        pair = {}
        for who in ("ours", "naive"):
            sizes = (bench.tokens, bench.vocabulary, bench.hidden)
            pair[who] = _in_own_process(Measurement(who, *sizes, dtype, device, head, bench.threads))
        pairs.append(pair)
        line.update(done + index + 1, memory=pair["ours"]["mib"] / pair["naive"]["mib"])
    gradient = "counted in both" if head == "trained" else "not made"
    where = f"{device}, {bench.threads} thread(s)" if device == "cpu" else device
    name = f"{bench.tokens} tokens, vocabulary {bench.vocabulary}, hidden {bench.hidden}, {dtype}, {where}"
    name += f", {head} head (its gradient: {gradient})"
    return [_case(f"peak memory: {name}", "MiB", pairs, "mib"), _case(f"time: {name}", "s", pairs, "seconds")]


def _case(name: str, unit: str, pairs: list[dict[str, dict[str, float]]], key: str) -> dict[str, Any]:
    runs = [{"ours": pair["ours"][key], "peer": pair["naive"][key]} for pair in pairs]
    for run in runs:
        run["ratio"] = run["ours"] / run["peer"]
    return {
        "name": name,
        "ours": statistics.median(run["ours"] for run in runs),
        "peer": statistics.median(run["peer"] for run in runs),
        "unit": f"{unit} of one forward and backward pass; less is better",
        "ratio": statistics.median(run["ratio"] for run in runs),
        "ratio_min": min(run["ratio"] for run in runs),
        "ratio_max": max(run["ratio"] for run in runs),
        "runs": runs,
    }


def _in_own_process(task: Measurement) -> dict[str, float]:
    words = [sys.executable, __file__, "--measure", json.dumps(asdict(task))]
    result = subprocess.run(words, capture_output=True, text=True)
    if result.returncode:
        raise R2VPOError(f"measuring {task} failed: {result.stderr.strip().splitlines()[-1:]}")
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    """Run every case, write the file, print a table."""
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Measurement(**json.loads(sys.argv[2])))))
        return
    bench = tyro.cli(Bench)
    if bench.alternations < 1:
        raise ConfigError("alternations", bench.alternations, "a whole number of at least 1")
    devices = bench.device or _devices()
    combinations = [(device, dtype, head) for device in devices for dtype in bench.dtype for head in bench.head]
    cases = []
    with LiveLine(len(combinations) * bench.alternations, "pairs") as line:
        for index, combination in enumerate(combinations):
            cases += measure_cases(bench, *combination, line, index * bench.alternations)
    _write(bench.json, cases)
    for case in cases:
        print(
            f"{case['name']}: {case['ours']:,.4g}, naive {case['peer']:,.4g} {case['unit'].split()[0]}: "
            f"{case['ratio']:.3f} ({case['ratio_min']:.3f} to {case['ratio_max']:.3f})"
        )


def _devices() -> tuple[str, ...]:
    # In another process: this one must stay small, because a child's peak on Linux starts at its parent's.
    probe = "import torch; print(torch.cuda.is_available())"
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return ("cpu", "cuda") if found.stdout.strip() == "True" else ("cpu",)


def _write(path: Path, cases: list[dict[str, Any]]) -> None:
    from r2vpo.runs.provenance import machine_description, package_versions, source_commit

    document = {
        "command": shlex.join(["python", *sys.argv]),
        "cases": cases,
        "versions": package_versions(),
        "machine": machine_description(),
        "commit": source_commit(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
