"""Table 1 of arXiv 2601.03320: methods by benchmarks, pass@1, for one model.

Trains the model with each method on DAPO-Math-17K as the paper did (128 prompts, 8 completions each, learning rate
1e-6, up to 16384 tokens a completion) and evaluates all of them, and the model as it was, on the paper's five
benchmarks (temperature 0.6, top-p 0.95). A run that was stopped goes on.

    python scripts/table1.py --model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --engine vllm
    python scripts/table1.py --model FreedomIntelligence/openPangu-Embedded-1B --trust-remote-code --engine vllm
    python scripts/table1.py --model FreedomIntelligence/openPangu-Embedded-7B-V1.1 --trust-remote-code --engine vllm

These are days of GPU time, and we have not spent them. What was run is the smoke test on a CPU:

    python scripts/table1.py --model arithmetic --dataset arithmetic --benchmarks arithmetic --total-rollouts 1024 \
        --methods grpo r2vpo-off --limit 50 --samples 2
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from r2vpo.llm import R2VPOTrainer
from r2vpo.llm.evaluation.command import main as evaluate
from r2vpo.runs.checkpoint import write_text_atomically
from r2vpo.runs.directory import CHECKPOINT, CONFIG, SUMMARY
from r2vpo.runs.provenance import machine_description, package_versions

BENCHMARKS = ("aime2024", "aime2025", "amc2023", "hmmt_feb_2025", "olymmath")
METHODS = ("grpo", "clip_higher", "gppo", "topr", "r2vpo-on", "r2vpo-off")
"""The rows of the paper's table, below the model as it was."""


@dataclass(frozen=True)
class Arguments:
    """One block of the table."""

    model: str = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    """Hub name or directory."""
    methods: tuple[str, ...] = METHODS
    """Rows."""
    benchmarks: tuple[str, ...] = BENCHMARKS
    """Columns."""
    dataset: str = "dapo-math-17k"
    """Problems to train on."""
    total_rollouts: int = 204_800
    """Completions that each method trains on; the paper does not say."""
    max_completion_tokens: int | None = None
    """16384 as in the paper where not given; the tiny model keeps its own."""
    samples: int = 16
    """Sampled answers to each problem of a benchmark."""
    limit: int | None = None
    """Only the first problems of each benchmark."""
    engine: Literal["auto", "hf", "vllm"] = "auto"
    """What generates."""
    trust_remote_code: bool = False
    """Needed for openPangu."""
    seed: int = 0
    """Of training and evaluation."""
    out: Path = Path("runs/table1")
    """Runs, evaluations and the table."""


def train(arguments: Arguments, method: str, run_dir: Path) -> None:
    """Train one row, from where it stands."""
    if (run_dir / SUMMARY).exists():
        return
    if (run_dir / CONFIG).exists() and (run_dir / CHECKPOINT).exists():
        trainer = R2VPOTrainer.resume(run_dir)
    else:
        (run_dir / CONFIG).unlink(missing_ok=True)
        settings: dict[str, Any] = {"max_completion_tokens": arguments.max_completion_tokens}
        if arguments.max_completion_tokens is None:
            settings = {} if arguments.model == "arithmetic" else {"max_completion_tokens": 16_384}
        trainer = R2VPOTrainer(
            arguments.model,
            train_dataset=arguments.dataset,
            run_dir=run_dir,
            method=method,
            total_rollouts=arguments.total_rollouts,
            engine=arguments.engine,
            trust_remote_code=arguments.trust_remote_code,
            seed=arguments.seed,
            eval_every=0,
            eval_samples=0,
            **settings,
        )
    trainer.train()
    trainer.close()


def measure(arguments: Arguments, model: str, out: Path) -> dict[str, Any]:
    """pass@1 of one row on every benchmark, with intervals."""
    words = [model, "--benchmarks", *arguments.benchmarks, "--samples", str(arguments.samples), "--no-greedy"]
    words += ["--engine", arguments.engine, "--seed", str(arguments.seed), "--out", str(out)]
    words += ["--limit", str(arguments.limit)] if arguments.limit is not None else []
    words += ["--trust-remote-code"] if arguments.trust_remote_code else []
    evaluate(words)
    document: dict[str, Any] = json.loads((out / "results.json").read_text())
    return document


def main() -> None:
    """Train and evaluate every row, then write the table."""
    arguments = tyro.cli(Arguments)
    name = Path(arguments.model).name
    folder = arguments.out / name
    rows = {"base": measure(arguments, arguments.model, folder / "base")}
    for method in arguments.methods:
        run_dir = folder / method
        train(arguments, method, run_dir)
        rows[method] = measure(arguments, str(run_dir), folder / f"{method}-evaluation")
        document = {"model": arguments.model, "rows": rows, "versions": package_versions()}
        text = json.dumps(document | {"machine": machine_description()}, indent=1)
        write_text_atomically(folder / "table1.json", text)
    print(f"\n{'method':14}" + "".join(f"{benchmark:>15}" for benchmark in arguments.benchmarks) + f"{'average':>10}")
    for row, document in rows.items():
        values = [100 * document["benchmarks"][benchmark]["pass_at_1"]["value"] for benchmark in arguments.benchmarks]
        average = sum(values) / len(values)
        print(f"{row:14}" + "".join(f"{value:15.2f}" for value in values) + f"{average:10.2f}")
    print(folder / "table1.json")


if __name__ == "__main__":
    main()
