"""What ``r2vpo bench llm`` measures: pairs of measurements, and which of their figures become cases."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from r2vpo.errors import ConfigError
from r2vpo.llm.bench.turns import Figures, Task, case_of_runs
from r2vpo.llm.bench.workload import Workload

CASES = ("trl", "trl-long", "engines", "logprob")

TRAINERS = "r2vpo.llm.bench.trainers:measure_trainer"
ENGINES = "r2vpo.llm.bench.engines:measure_engine"
LOG_PROBS = "r2vpo.llm.bench.logprob:measure_log_probs"
"""What the processes run; this one does not import them, because it must stay small."""

LOGPROB_SIZES = {"tokens": 512, "vocabulary": 151_936, "hidden": 896}
"""Output layer of Qwen2.5-0.5B."""


@dataclass(frozen=True)
class Pair:
    """Ours and a peer, measured in turn."""

    name: str
    ours: Task
    peer: Task
    peer_name: str
    turns: int
    of_turns: dict[str, str]
    """Figures of each turn that become a case, and their units."""
    of_whole: dict[str, str]
    """Figures of a whole measurement that become a case, and their units."""

    @property
    def label(self) -> str:
        """For the live line."""
        return f"{self.ours['who']} and {self.peer['who']}"


def make_pairs(case: str, turns: int, workload: Workload) -> list[Pair]:
    """The measurements of one of :data:`CASES`.

    Raises:
        ConfigError: Something it needs is not installed.
    """
    if case == "engines":
        return _engine_pairs(turns, workload)
    if case == "logprob":
        return [log_prob_pair(turns, workload.threads, LOGPROB_SIZES, "float32", "cpu")]
    require_installed("trl", case)
    require_installed("datasets", case)
    chosen = {**asdict(workload), "iterations": turns}
    if case == "trl-long":
        chosen |= {"prompts": 16, "new_tokens": 64}
    return [_trainer_pair("ours", "trl", "TRL", Workload(**chosen))]


def require_installed(package: str, case: str) -> None:
    """Raise ConfigError when a package that a case needs is missing."""
    if importlib.util.find_spec(package) is None:
        raise ConfigError("cases", case, f"others, or {package} installed: pip install {package}")


def summarize(pair: Pair, repeats: Sequence[list[tuple[list[Figures], Figures]]]) -> list[dict[str, Any]]:
    """Cases of a pair: medians over turns, or over processes for figures of the whole, ratios one by one.

    Args:
        pair: What was measured.
        repeats: What :func:`r2vpo.llm.bench.process.contest` returned, each time.
    """
    cases = []
    for key, unit in pair.of_turns.items():
        runs = [
            {"ours": ours[key], "peer": peer[key], "process": number}
            for number, ((our_turns, _), (peer_turns, _)) in enumerate(repeats)
            for ours, peer in zip(our_turns, peer_turns, strict=True)
        ]
        cases.append(case_of_runs(pair.name, unit, pair.peer_name, runs))
    for key, unit in pair.of_whole.items():
        runs = [{"ours": ours[key], "peer": peer[key]} for (_, ours), (_, peer) in repeats]
        cases.append(case_of_runs(pair.name, unit, pair.peer_name, runs))
    phases = [_seconds([turn for sides in repeats for turn in sides[side][0]]) for side in (0, 1)]
    if phases[0]:
        cases[0]["seconds_per_iteration"] = dict(zip(("ours", "peer"), phases, strict=True))
    return cases


def _seconds(turns: Sequence[Figures]) -> dict[str, float]:
    """Median seconds of every phase of an iteration."""
    split = [turn["seconds"] for turn in turns if isinstance(turn.get("seconds"), dict)]
    return {phase: statistics.median(seconds[phase] for seconds in split) for phase in (split[0] if split else ())}


def _trainer_pair(ours: str, peer: str, peer_name: str, workload: Workload) -> Pair:
    settings = asdict(workload)
    return Pair(
        f"training beside {peer_name}: {workload.training}",
        {"measure": TRAINERS, "who": ours, "workload": settings},
        {"measure": TRAINERS, "who": peer, "workload": settings},
        peer_name,
        workload.iterations,
        {"samples_per_second": "samples/s of training"},
        {"peak_mib": "MiB peak of the process; less is better"},
    )


def _engine_pairs(turns: int, workload: Workload) -> list[Pair]:
    training = Workload(**{**asdict(workload), "iterations": turns})
    generating = Workload(**{**asdict(training), "new_tokens": 32})
    peers = {"generate": "transformers generate"}
    if importlib.util.find_spec("vllm") is not None:
        peers["vllm"] = "the vLLM engine"
    pairs = [
        Pair(
            f"hf engine beside {name}: {generating.generation}",
            {"measure": ENGINES, "who": "hf", "workload": asdict(generating)},
            {"measure": ENGINES, "who": who, "workload": asdict(generating)},
            name,
            turns,
            {"tokens_per_second": "generated tokens/s"},
            {"peak_mib": "MiB peak of the process; less is better"},
        )
        for who, name in peers.items()
    ]
    if "vllm" in peers:
        pairs.append(_trainer_pair("ours", "ours-vllm", "our trainer with the vLLM engine", training))
    return pairs


def log_prob_pair(turns: int, threads: int, sizes: dict[str, int], dtype: str, device: str) -> Pair:
    """Per-token log-probs forward and backward beside the naive way."""
    common = {"measure": LOG_PROBS, "passes": turns, "threads": threads, "dtype": dtype, "device": device, **sizes}
    described = ", ".join(f"{name} {value:,}" for name, value in sizes.items())
    return Pair(
        f"log-probs forward and backward beside logits, log_softmax, gather: {described}, {dtype}, the output "
        "layer's gradient counted in both",
        {"who": "ours", **common},
        {"who": "naive", **common},
        "naive",
        turns,
        {"seconds": "s of one forward and backward pass; less is better"},
        {"mib": "MiB of one forward and backward pass; less is better"},
    )
