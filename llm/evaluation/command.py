"""``r2vpo llm evaluate``. Needs no torch until its arguments are known to make sense."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from annotated_types import MinLen

from r2vpo.errors import ConfigError, RewardError
from r2vpo.llm.data.rows import PROCEDURAL, REASONING_GYM, dataset_defaults
from r2vpo.llm.evaluation.protocol import EvaluationProtocol
from r2vpo.llm.evaluation.target import EvaluatedModel, find_model, weights_fingerprint
from r2vpo.llm.models.tiny_names import tiny_preset
from r2vpo.validation import Count, check_fields

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from r2vpo.llm.data.files import Row
    from r2vpo.llm.engines.base import RolloutEngine
    from r2vpo.llm.evaluation.tally import EvaluationResult
    from r2vpo.llm.rewards import RewardFunction

DEFAULT_K = (1, 8)
DEFAULT_MAX_TOKENS = 2048
RESULTS, ANSWERS, PICTURE = "results.json", "table.md", "results.png"


@dataclass(frozen=True)
class EvaluateCommand:
    """Measure pass@1, pass@k and greedy accuracy of a model on benchmarks, and keep every completion.

    Stopped, the same command goes on where it was. Benchmarks of the paper: aime2024, aime2025, amc2023,
    hmmt_feb_2025, olymmath (olymmath-easy, olymmath-hard); also gsm8k, arithmetic, reasoning-gym:TASK, a JSONL or
    parquet file, a hub name.
    """

    model: Annotated[str, tyro.conf.Positional]
    """Run directory of r2vpo llm train, a directory with a model, or the name of one."""
    benchmarks: Annotated[tuple[str, ...], MinLen(1)] = ("arithmetic",)
    """What to solve."""
    samples: int = 16
    """Sampled answers to each problem; 0 takes the greedy one alone."""
    k: tuple[int, ...] | None = None
    """pass@k for these; 1 and 8 when not given, as far as samples allow."""
    temperature: float = 0.6
    """Of the sampled answers."""
    top_p: float = 0.95
    """Nucleus of the sampled answers."""
    max_tokens: int | None = None
    """Completions are cut here; the run's own limit when not given, 2048 without one (the paper: 16384)."""
    greedy: bool = True
    """Also one answer at temperature 0."""
    limit: Count | None = None
    """Only the first problems of each benchmark."""
    prompt_column: str | None = None
    """Column that holds the prompt; the run's own on its own data, prompt elsewhere, when not given."""
    answer_column: str | None = None
    """Column that holds the ground truth; the run's own on its own data, answer elsewhere, when not given."""
    reward: str | None = None
    """Verifier; exact for arithmetic, the task's own for reasoning-gym, math_verify elsewhere when not given."""
    engine: Literal["auto", "hf", "vllm"] = "auto"
    """What generates: vllm where it is installed and there is a GPU, else hf."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights; auto is bfloat16 on a GPU, else float32."""
    prompt_template: str | None = None
    """Text around each problem, with {prompt} in it; the run's own when not given."""
    system_prompt: str | None = None
    """First message of a chat; the run's own when not given."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    seed: int = 0
    """Same seed, same answers on the same engine."""
    completions_at_once: Count = 512
    """Completions handed to the engine together; what a kill loses at most."""
    out: Path | None = None
    """Folder for completions, results, table and picture; evaluation/ in the run directory when not given."""
    json: Path | None = None
    """Also write the results to this file."""
    quiet: bool = False
    """No live line."""


@dataclass(frozen=True)
class _Benchmark:
    name: str
    rows: Sequence[Row]
    reward: tuple[str, RewardFunction]
    protocol: EvaluationProtocol
    file: Path
    """Of completions."""


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Raises:
        ConfigError, RewardError: Arguments, data or a verifier that cannot work, before the model is loaded.
        RunDirectoryError: The run holds no model, or ``--out`` completions of other settings.
        NoVerdicts, RewardError: A verifier that judged nothing or returned something unusable, after the results of
            the other benchmarks are written; all completions are kept.
    """
    command = tyro.cli(EvaluateCommand, args=list(arguments), prog="r2vpo llm evaluate")
    model = find_model(command.model)
    protocol = make_protocol(command, model)
    _check(command)
    out = command.out or (model.run_dir / "evaluation" if model.run_dir else Path("runs") / f"evaluate-{model.name}")
    with ExitStack() as stack:
        benchmarks = [_prepare(name, command, model, protocol, out) for name in dict.fromkeys(command.benchmarks)]
        for benchmark in benchmarks:
            stack.callback(getattr(benchmark.reward[1], "close", lambda: None))
        identity = _identity(command, model)
        for benchmark in benchmarks:
            _check_file(benchmark, identity)
        engine, tokenizer = _load(command, model, benchmarks, protocol)
        stack.callback(engine.close)
        results: dict[str, EvaluationResult] = {}
        failures: dict[str, RewardError] = {}
        for benchmark in benchmarks:
            try:
                results[benchmark.name] = _evaluate(command, engine, tokenizer, benchmark, identity)
            except RewardError as error:
                failures[benchmark.name] = error
    if results:
        _write(command, model, protocol, [b for b in benchmarks if b.name in results], results, out)
    if failures:
        raise type(next(iter(failures.values())))(
            "; ".join(f"{name}: {error}" for name, error in failures.items())
            + f". The completions are kept in {out}; the same command judges them again"
        )
    return 0


def make_protocol(command: EvaluateCommand, model: EvaluatedModel) -> EvaluationProtocol:
    """The command's settings, and those of the run where the command names none.

    Raises:
        ConfigError: A value outside its range.
    """
    run = model.run_config
    limit = tiny_preset(model.source).get("max_completion_tokens", DEFAULT_MAX_TOKENS)
    return EvaluationProtocol(
        samples=command.samples,
        k=command.k if command.k is not None else tuple(k for k in DEFAULT_K if k <= command.samples),
        temperature=command.temperature,
        top_p=command.top_p,
        max_tokens=command.max_tokens if command.max_tokens is not None else run.get("max_completion_tokens", limit),
        greedy=command.greedy,
        seed=command.seed,
        prompt_template=command.prompt_template or run.get("prompt_template"),
        system_prompt=command.system_prompt or run.get("system_prompt"),
    )


def default_reward(benchmark: str) -> str:
    """Verifier of a benchmark."""
    generated = benchmark in PROCEDURAL or benchmark.startswith(REASONING_GYM)
    return str(dataset_defaults(benchmark)["reward"][0]) if generated else "math_verify"


def with_own_bar(protocol: EvaluationProtocol, benchmark: str) -> EvaluationProtocol:
    """The protocol with the reward above which a problem of this benchmark counts as solved."""
    return replace(protocol, solved_above=dataset_defaults(benchmark).get("solved_above", protocol.solved_above))


def _check(command: EvaluateCommand) -> None:
    check_fields(command, EvaluateCommand)
    if command.json is not None and not command.json.parent.is_dir():
        raise ConfigError("json", str(command.json), "a file in a folder that exists")


def _prepare(
    name: str, command: EvaluateCommand, model: EvaluatedModel, protocol: EvaluationProtocol, out: Path
) -> _Benchmark:
    from r2vpo.llm.data.rows import load_rows
    from r2vpo.llm.rewards import make_reward
    from r2vpo.llm.rewards.calling import check_columns

    reward = command.reward or default_reward(name)
    function = make_reward(reward)
    own = model.run_config if name in (model.run_config.get("dataset"), model.run_config.get("eval_dataset")) else {}
    columns = {
        column: getattr(command, column) or own.get(column) or usual
        for column, usual in (("prompt_column", "prompt"), ("answer_column", "answer"))
    }
    rows = load_rows(name, "test", command.limit, **columns)
    check_columns(reward, function, rows, protocol.prompt_column)
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in name).strip("-.")
    return _Benchmark(name, rows, (reward, function), with_own_bar(protocol, name), out / f"completions-{safe}.jsonl")


def _identity(command: EvaluateCommand, model: EvaluatedModel) -> dict[str, Any]:
    from r2vpo.llm.models.loading import resolve_model

    weights = weights_fingerprint(Path(resolve_model(model.source)))
    return {"model": model.name, "weights": weights, "engine": command.engine, "dtype": command.dtype}


def _check_file(benchmark: _Benchmark, identity: dict[str, Any]) -> None:
    from r2vpo.llm.evaluation.completions import check_settings
    from r2vpo.llm.evaluation.run import completion_settings

    if benchmark.file.exists():
        check_settings(benchmark.file, completion_settings(benchmark.protocol, identity, [benchmark.reward[0]]))


def _load(
    command: EvaluateCommand, model: EvaluatedModel, benchmarks: Sequence[_Benchmark], protocol: EvaluationProtocol
) -> tuple[RolloutEngine, PreTrainedTokenizerBase]:
    import torch

    from r2vpo.llm.data.prompts import row_tokens
    from r2vpo.llm.engines.base import context_length
    from r2vpo.llm.engines.choice import choose_engine, make_engine
    from r2vpo.llm.models.checks import check_vocabulary
    from r2vpo.llm.models.loading import load_model, load_tokenizer

    tokenizer = load_tokenizer(model.source, trust_remote_code=command.trust_remote_code)
    prompts = [
        row_tokens(row, tokenizer, protocol, index)
        for benchmark in benchmarks
        for index, row in enumerate(benchmark.rows)
    ]
    longest = max(map(len, prompts))
    loaded = load_model(model.source, dtype=command.dtype, trust_remote_code=command.trust_remote_code)
    check_vocabulary(loaded, tokenizer, prompts, model.source)
    _check_context(context_length(loaded), longest, protocol.max_tokens)
    loaded = loaded.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    options: dict[str, Any] = {}
    if choose_engine(command.engine, loaded)[0] == "vllm":
        options = {"max_model_len": longest + protocol.max_tokens, "trust_remote_code": command.trust_remote_code}
    engine, description = make_engine(command.engine, loaded, tokenizer, **options)
    print(f"{model.source}: {sum(p.numel() for p in loaded.parameters()):,} parameters, {description}")
    return engine, tokenizer


def _check_context(context: int | None, longest: int, max_tokens: int) -> None:
    if context is None or longest + max_tokens <= context:
        return
    size = f"the model's context is {context} tokens, the longest prompt has {longest}"
    if longest >= context:
        raise ConfigError("benchmarks", f"<a prompt of {longest} tokens>", f"made of shorter prompts: {size}")
    raise ConfigError("max_tokens", max_tokens, f"at most {context - longest}: {size}")


def _evaluate(
    command: EvaluateCommand,
    engine: RolloutEngine,
    tokenizer: PreTrainedTokenizerBase,
    benchmark: _Benchmark,
    identity: dict[str, Any],
) -> EvaluationResult:
    from r2vpo.llm.evaluation.completions import whole_groups
    from r2vpo.llm.evaluation.run import evaluate
    from r2vpo.runs.progress import LiveLine

    total = len(benchmark.rows)
    done = min(total, whole_groups(benchmark.file, benchmark.protocol.answers))
    with LiveLine(total, f"{benchmark.name} problems", done=done, quiet=command.quiet) as line:
        return evaluate(
            engine,
            tokenizer,
            benchmark.rows,
            [benchmark.reward],
            benchmark.protocol,
            output=benchmark.file,
            identity=identity,
            completions_at_once=command.completions_at_once,
            on_progress=lambda problems, tally: line.update(
                problems, pass_rate=tally.pass_rate, tokens_per_s=tally.tokens_per_second
            ),
        )


def _write(
    command: EvaluateCommand,
    model: EvaluatedModel,
    protocol: EvaluationProtocol,
    benchmarks: Sequence[_Benchmark],
    results: dict[str, EvaluationResult],
    out: Path,
) -> None:
    from r2vpo.llm.evaluation.tables import plot_results, print_results, write_answers_table
    from r2vpo.runs.checkpoint import write_text_atomically
    from r2vpo.runs.provenance import provenance

    rewards = {benchmark.name: benchmark.reward[0] for benchmark in benchmarks}
    document = {
        "model": model.name,
        "source": model.source,
        "protocol": asdict(protocol) | {"engine": command.engine, "dtype": command.dtype, "limit": command.limit},
        "benchmarks": {name: {"reward": rewards[name], **result.as_dict()} for name, result in results.items()},
        **provenance(),
    }
    text = json.dumps(document, indent=2, default=str)
    write_text_atomically(out / RESULTS, text)
    if command.json is not None:
        write_text_atomically(command.json, text)
    print_results(results)
    files = {benchmark.name: benchmark.file for benchmark in benchmarks}
    title = (
        f"{model.name}: T = {protocol.temperature:g}, top-p {protocol.top_p:g}, {protocol.samples} samples a problem"
    )
    print(f"results     {out / RESULTS}")
    print(f"answers     {write_answers_table(files, out / ANSWERS)}")
    print(f"picture     {plot_results(results, title, out / PICTURE)}")
    print(f"completions {', '.join(str(file) for file in files.values())}")
