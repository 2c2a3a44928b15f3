"""Speed and memory of the language-model backend on one device, against what the device can do at best.

For packages of 512, 1024 and 2048 tokens (the length of each sequence, an eighth of it prompt): trained tokens per
second of the learner (forward, backward and AdamW), generated tokens per second of every engine, and log-probs beside
the naive way. Next to the first two stands the roofline: the time that a large matrix product and a large copy, both
measured here, allow. `random:0.5B` and so on are Qwen2.5's sizes with random weights that never end a completion, so
nothing is downloaded.

    python scripts/bench_llm.py --model random:0.5B --device cuda --engines hf vllm

It has been run on a CPU only, with `random:tiny`.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from r2vpo.errors import ConfigError
from r2vpo.llm.bench.cases import log_prob_pair, summarize
from r2vpo.llm.bench.command import with_provenance, write_json
from r2vpo.llm.bench.device import ModelCost, Subject, generation_case, measure_roofline, training_case
from r2vpo.llm.bench.process import contest
from r2vpo.runs.progress import LiveLine

QWEN = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
SIZES: dict[str, tuple[tuple[int, ...], int, bool]] = {
    "tiny": ((64, 2, 2, 1, 128), 512, True),
    "0.5B": ((896, 24, 14, 2, 4864), 151_936, True),
    "1.5B": ((1536, 28, 12, 2, 8960), 151_936, True),
    "3B": ((2048, 36, 16, 2, 11_008), 151_936, True),
    "7B": ((3584, 28, 28, 4, 18_944), 152_064, False),
}
"""Fields of QWEN, vocabulary, and whether input and output layer are one (configurations of the Qwen2.5 models)."""
EOS = 0

Measurement = Callable[[], dict[str, Any]]
"""Measures a case."""


def main() -> None:
    options = parse()
    torch.manual_seed(0)
    rooflines = {name: measure_roofline(options.device, getattr(torch, name)) for name in ("float32", "bfloat16")}
    for name, roofline in rooflines.items():
        print(f"{name}: {roofline.flops / 1e12:.3g} TFLOP/s, {roofline.bandwidth / 1e9:,.0f} GB/s", file=sys.stderr)
    subject = Subject(make_model(options), EOS, options.device, options.dtype, rooflines)
    about = {"name": options.model, "dtype": options.dtype, **asdict(ModelCost.of(subject.model))}
    vocabulary, hidden = subject.model.get_output_embeddings().weight.shape
    measurements = plan(options, subject)
    log_prob_sizes = options.packages if options.log_probs else []
    cases: list[dict[str, Any]] = []
    with LiveLine(len(measurements) + len(log_prob_sizes), "measurements") as line:
        for done, measure in enumerate(measurements, start=1):
            cases.append(survive_lack_of_memory(measure))
            line.update(done)
        del subject, measurements
        for done, tokens in enumerate(log_prob_sizes, start=len(cases) + 1):
            cases += log_prob_cases(options, tokens, vocabulary, hidden)
            line.update(done)
    measured = {"model": about, "roofline": {name: asdict(r) for name, r in rooflines.items()}}
    write_json(options.json, {"command": shlex.join(["python", *sys.argv]), **measured, **with_provenance(cases)})
    for case in cases:
        print(describe(case))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    add = parser.add_argument
    add("--model", default="random:0.5B" if cuda else "random:tiny", help="random:SIZE, a directory or a hub name")
    add("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the trained weights")
    add("--packages", type=int, nargs="+", default=[512, 1024, 2048], help="tokens of a sequence")
    add("--rows", type=int, default=8, help="sequences of an optimizer step")
    add("--micro-batch-tokens", type=int, default=16_384, help="most tokens scored at once")
    add("--completions", type=int, default=64, help="generated side by side")
    add("--engines", nargs="*", default=["hf"], help="hf, vllm")
    add("--vllm-dtype", choices=("float32", "bfloat16"), default="bfloat16" if cuda else "float32")
    add("--vllm-graphs", action="store_true", help="let vLLM compile and record CUDA graphs")
    add("--repeats", type=int, default=3, help="timed updates and log-prob passes per case")
    add("--generation-repeats", type=int, default=1, help="timed rounds of generation per case")
    add("--no-log-probs", dest="log_probs", action="store_false")
    add("--json", type=Path, default=Path("benchmarks/llm_gpu.json"))
    options = parser.parse_args()
    for name in ("rows", "completions", "repeats", "generation_repeats", "micro_batch_tokens"):
        if getattr(options, name) < 1:
            raise ConfigError(name, getattr(options, name), "a whole number of at least 1")
    if min(options.packages) < 16:
        raise ConfigError("packages", options.packages, "at least 16 tokens each")
    return options


def make_model(options: argparse.Namespace) -> Any:
    if not options.model.startswith("random:"):
        from r2vpo.llm.models.loading import load_model

        return load_model(options.model, dtype=options.dtype).to(options.device)
    size = options.model.removeprefix("random:")
    if size not in SIZES:
        raise ConfigError("model", options.model, "random: and one of " + ", ".join(SIZES))
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from r2vpo.llm.bench.workload import never_end

    shape, vocabulary, tied = SIZES[size]
    config = Qwen2Config(
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=2 * max(options.packages),
        eos_token_id=EOS,
        bos_token_id=None,
        **dict(zip(QWEN, shape, strict=True)),
    )
    with torch.device(options.device):
        model = Qwen2ForCausalLM(config).to(getattr(torch, options.dtype))
    never_end(model, EOS)
    return model


def plan(options: argparse.Namespace, subject: Subject) -> list[Measurement]:
    """Training and generation, each for every package size."""

    def train(tokens: int) -> Measurement:
        return lambda: training_case(subject, tokens, options.rows, options.micro_batch_tokens, options.repeats)

    def generate(kind: str, tokens: int) -> Measurement:
        settings: dict[str, Any] = {}
        if kind == "vllm":
            settings = {"dtype": options.vllm_dtype, "enforce_eager": not options.vllm_graphs}
            settings |= {"max_model_len": tokens, "max_num_seqs": options.completions}
        sizes = (tokens, options.completions, options.generation_repeats)
        return lambda: generation_case(subject, kind, *sizes, **settings)

    trained = [train(tokens) for tokens in options.packages]
    return trained + [generate(kind, tokens) for kind in options.engines for tokens in options.packages]


def survive_lack_of_memory(measure: Measurement) -> dict[str, Any]:
    """The case, or one that says that memory ran out, so that the others are still measured."""
    try:
        return measure()
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        return {"error": f"out of memory: {str(error).splitlines()[0]}"}


def log_prob_cases(options: argparse.Namespace, tokens: int, vocabulary: int, hidden: int) -> list[dict[str, Any]]:
    """Time beside the naive way, in processes of their own; memory too on a GPU, since a CPU's keep what they freed."""
    dtype = "bfloat16" if options.device == "cuda" else "float32"
    sizes = {"tokens": tokens, "vocabulary": vocabulary, "hidden": hidden}
    pair = log_prob_pair(options.repeats, torch.get_num_threads(), sizes, dtype, options.device)
    if options.device == "cpu":
        pair = replace(pair, of_whole={})
    return summarize(pair, [contest(pair.ours, pair.peer, pair.turns)])


def describe(case: dict[str, Any]) -> str:
    """One line."""
    if "error" in case:
        return str(case["error"])
    extra = f", {case['flops_per_second'] / 1e12:.3g} TFLOP/s" if "flops_per_second" in case else ""
    extra += f", peak {case['peak_mib']:,.0f} MiB" if "peak_mib" in case else ""
    return (
        f"{case['name']}: {case['ours']:,.4g}, {case['peer_name']} {case['peer']:,.4g} {case['unit']}: "
        f"{case['ratio']:.3f} ({case['ratio_min']:.3f} to {case['ratio_max']:.3f}){extra}"
    )


if __name__ == "__main__":
    main()
