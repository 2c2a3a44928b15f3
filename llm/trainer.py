"""`R2VPOTrainer` fine-tunes a causal language model with verifiable rewards; it reads like TRL's GRPOTrainer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from r2vpo.errors import CheckpointError, ConfigError, RunDirectoryError
from r2vpo.llm.collection import Collector, PromptStream
from r2vpo.llm.config import LLMConfig, resolve_config
from r2vpo.llm.data.files import Row
from r2vpo.llm.data.problems import check_context, make_problems
from r2vpo.llm.data.rows import as_rows, has_held_out_split, load_rows, with_prompts
from r2vpo.llm.distributed import AcceleratedProcesses
from r2vpo.llm.engines.choice import choose_engine, make_engine
from r2vpo.llm.evaluation.held_out import accuracy
from r2vpo.llm.learner import TokenLearner, half_precision
from r2vpo.llm.models.checks import check_model_object, check_tokenizer_object, check_vocabulary, padding_id
from r2vpo.llm.models.loading import load_model, load_tokenizer, save_pretrained
from r2vpo.llm.models.token_policy import TokenPolicy
from r2vpo.llm.rewards.calling import RewardFunction, check_columns, reward_list, reward_names
from r2vpo.llm.rewards.registry import make_reward
from r2vpo.llm.run import Run, restore_snapshot
from r2vpo.llm.training import finish_run, run_training
from r2vpo.runs.checkpoint import load_tree
from r2vpo.runs.directory import CHECKPOINT, CONFIG, RunDirectory
from r2vpo.validation import check_names, upgraded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from r2vpo.llm.engines.base import RolloutEngine

GIVEN = "given"
"""Stands in the config for a model, a dataset or a reward that was passed as an object."""

RewardArgument = str | RewardFunction | Sequence[str | RewardFunction]

Callback = Callable[["R2VPOTrainer", dict[str, Any]], bool | None]
"""Called after each iteration with its metrics; False ends the training."""


class R2VPOTrainer(Run):
    """Algorithms 1 and 2 of arXiv 2601.03320, and every baseline of the core, on token policies.

    Args:
        model: Directory, hub name, a built-in name (see :attr:`LLMConfig.model`), or a loaded causal model.
        reward_funcs: Names or functions ``f(prompts=..., completions=..., **columns) -> list[float | None]``, called as
            in TRL; one or several. None takes those of the config.
        config: Settings; ``settings`` are an alternative to it.
        train_dataset: Name or rows with a prompt column; None takes the config's.
        eval_dataset: Held-out rows or a name; None takes the config's.
        processing_class: Tokenizer; None loads the model's.
        run_dir: Where everything is written; None writes nothing.
        callbacks: Called after each iteration.
        settings: Fields of :class:`LLMConfig`; methods and presets fill in the rest.

    Raises:
        ConfigError: Any setting, dataset or reward that cannot work.
        RunDirectoryError: ``run_dir`` cannot be written, is in use, or holds a run.
    """

    def __init__(
        self,
        model: str | PreTrainedModel | None = None,
        reward_funcs: RewardArgument | None = None,
        config: LLMConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        run_dir: str | Path | None = None,
        callbacks: Sequence[Callback] = (),
        **settings: Any,
    ) -> None:
        given, implied = _sorted_arguments(model, reward_funcs, train_dataset, eval_dataset, processing_class)
        if config is None:
            config = resolve_config(implied | settings)
        elif settings:
            raise ConfigError("config", "and " + ", ".join(settings), "given alone, or left out and settings given")
        else:
            config = replace(config, **implied)
        self._assemble(config, given, run_dir, callbacks, new=True)

    @classmethod
    def resume(
        cls,
        run_dir: str | Path,
        model: PreTrainedModel | None = None,
        reward_funcs: RewardArgument | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> R2VPOTrainer:
        """Go on with a run from its newest checkpoint; what it was given as objects has to be given again.

        Raises:
            RunDirectoryError: There is no run, or another process uses it.
            CheckpointError: The checkpoint is damaged, or of another model.
        """
        given, _ = _sorted_arguments(model, reward_funcs, train_dataset, eval_dataset, processing_class)
        trainer = cls.__new__(cls)
        trainer._assemble(_stored_config(Path(run_dir)), given, run_dir, callbacks, new=False)
        return trainer

    def _assemble(
        self, config: LLMConfig, given: _Given, run_dir: str | Path | None, callbacks: Sequence[Callback], new: bool
    ) -> None:
        self.callbacks = (callbacks,) if callable(callbacks) else tuple(callbacks)
        if not all(map(callable, self.callbacks)):
            raise ConfigError("callbacks", callbacks, "functions of the trainer and an iteration's metrics")
        if config.torch_threads:
            torch.set_num_threads(config.torch_threads)
        processes = AcceleratedProcesses()
        if given.rows is None:
            rows = _rows(config, config.dataset, "train")
        else:
            rows = with_prompts(given.rows, config.prompt_column, config.answer_column, "train_dataset")
        eval_rows = _held_out_rows(config, given)
        functions = _reward_functions(config, given)
        directory = None
        if run_dir is not None and processes.is_main:
            directory = RunDirectory(run_dir, {"kind": "llm", **asdict(config)} if new else None)
        try:
            model, tokenizer = _load_model(config, given, processes)
            problems = make_problems(rows, tokenizer, config)
            eval_problems = make_problems(eval_rows[: config.eval_problems], tokenizer, config)
            check_vocabulary(model, tokenizer, (p.tokens for p in (*problems, *eval_problems)), config.model)
            check_context(model, config, problems)
            for (name, function), some in product(functions, filter(None, (rows, eval_rows))):
                check_columns(name, function, some, config.prompt_column)
            policy, generator = TokenPolicy(model, config.temperature), torch.Generator().manual_seed(config.seed)
            learner = TokenLearner(policy, config, generator, processes, padding_id(tokenizer))
            engine, engine_name = _start_engine(config, model, tokenizer)
            decode: Any = partial(tokenizer.decode, skip_special_tokens=True)
            stream = PromptStream(problems, config.seed)
            collector = Collector(engine, stream, functions, decode, config, processes)
            parts = (config, processes, model, tokenizer, learner, engine, engine_name, collector, eval_problems)
            super().__init__(*parts, directory)
            if not new and (path := Path(run_dir or ".") / CHECKPOINT).exists():
                restore_snapshot(self, load_tree(path))
            if not new and directory is not None:
                directory.drop_metrics_after(self.rollouts)
        except BaseException:
            # Leave no half-made run behind, so that the same folder can be used for the next attempt.
            if directory is not None:
                if new:
                    (directory.path / CONFIG).unlink(missing_ok=True)
                directory.close()
            raise

    def train(self, progress_bar: bool = True) -> dict[str, Any]:
        """Train to ``total_rollouts``, evaluate, and write the results.

        Ctrl-C finishes the iteration, saves and raises KeyboardInterrupt.

        Returns:
            The summary, see :func:`r2vpo.llm.training.finish_run`.

        Raises:
            RolloutError: The engine failed, or its log-probs are not finite.
            RewardError: A reward function returned something unusable.
            TrainingDiverged: A whole update was non-finite.
            OutOfMemory: With advice on what to lower.
        """
        run_training(self, [partial(callback, self) for callback in self.callbacks], progress_bar)
        return finish_run(self)

    def evaluate(self) -> dict[str, float | None]:
        """Greedy accuracy on the held-out problems."""
        return {"accuracy_greedy": accuracy(self.collector, self.eval_problems)}

    def save_model(self, path: str | Path) -> None:
        """Write weights, config and tokenizer as ``from_pretrained`` reads them; adapters are merged into the weights.

        Only the main process writes.
        """
        if self.processes.is_main:
            save_pretrained(self.model, self.tokenizer, Path(path))

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of a completion, without special tokens."""
        return self.collector.decode(list(tokens))

    def close(self) -> None:
        """Free the engine and give the run directory back."""
        self.engine.close()
        if self.directory is not None:
            self.directory.close()

    @property
    def run(self) -> RunDirectory | None:
        """The run directory."""
        return self.directory


@dataclass
class _Given:
    """What the caller passed as objects; None where the config's names hold."""

    model: PreTrainedModel | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    rows: Sequence[Row] | None = None
    eval_rows: Sequence[Row] | None = None
    rewards: list[str | RewardFunction] | None = None


def _sorted_arguments(
    model: str | PreTrainedModel | None,
    reward_funcs: RewardArgument | None,
    train_dataset: Any,
    eval_dataset: Any,
    processing_class: PreTrainedTokenizerBase | None,
) -> tuple[_Given, dict[str, Any]]:
    """Objects on one side; on the other the settings that the arguments stand for."""
    given, settings = _Given(tokenizer=processing_class), dict[str, Any]()
    if isinstance(model, str):
        settings["model"] = model
    elif model is not None:
        given.model = model
        settings["model"] = getattr(getattr(model, "config", None), "_name_or_path", "") or GIVEN
    for name, dataset in (("dataset", train_dataset), ("eval_dataset", eval_dataset)):
        if dataset is not None:
            settings[name] = dataset if isinstance(dataset, str) else GIVEN
    given.rows, given.eval_rows = (
        None if dataset is None or isinstance(dataset, str) else as_rows(dataset, field=field)
        for field, dataset in (("train_dataset", train_dataset), ("eval_dataset", eval_dataset))
    )
    if reward_funcs is not None:
        given.rewards = reward_list(reward_funcs)
        settings["reward"] = reward_names(given.rewards)
    return given, settings


def _rows(config: LLMConfig, name: str, split: str) -> Sequence[Row]:
    if name == GIVEN:
        field = "train_dataset" if split == "train" else "eval_dataset"
        raise ConfigError(field, None, "the rows that this run was started with")
    return load_rows(name, split, prompt_column=config.prompt_column, answer_column=config.answer_column)


def _held_out_rows(config: LLMConfig, given: _Given) -> Sequence[Row]:
    """Rows to evaluate on; none where neither the caller nor the dataset has a held-out part."""
    if given.eval_rows is not None:
        return with_prompts(given.eval_rows, config.prompt_column, config.answer_column, "eval_dataset")
    if config.eval_dataset is not None:
        return _rows(config, config.eval_dataset, "test")
    if given.rows is not None or not has_held_out_split(config.dataset):
        return []
    return _rows(config, config.dataset, "test")


def _reward_functions(config: LLMConfig, given: _Given) -> list[tuple[str, RewardFunction]]:
    functions: list[tuple[str, RewardFunction]] = []
    rewards = given.rewards if given.rewards is not None else config.reward
    for name, wanted in zip(reward_names(rewards), rewards, strict=True):
        if isinstance(wanted, str):
            verified = wanted in ("math_verify", "reasoning_gym")
            options = {"timeout_seconds": config.reward_timeout} if verified else {}
            functions.append((name, make_reward(wanted, **options)))
        else:
            functions.append((name, wanted))
    return functions


def _load_model(
    config: LLMConfig, given: _Given, processes: AcceleratedProcesses
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model on this process's device, and its tokenizer."""
    if given.model is not None or given.tokenizer is not None:
        check_tokenizer_object(given.tokenizer)
    if given.model is not None:
        check_model_object(given.model)
        return given.model.to(processes.device), cast("PreTrainedTokenizerBase", given.tokenizer)
    if config.model == GIVEN:
        raise ConfigError("model", None, "the model object that this run was started with")
    tokenizer = given.tokenizer or load_tokenizer(config.model, trust_remote_code=config.trust_remote_code)
    torch.manual_seed(config.seed)  # the first weights of LoRA adapters
    names = ("dtype", "attention", "trust_remote_code", "gradient_checkpointing", "lora_rank", "lora_alpha")
    model = load_model(config.model, **{name: getattr(config, name) for name in names})
    return model.to(processes.device), tokenizer


def _start_engine(
    config: LLMConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[RolloutEngine, str]:
    """The engine of the config, and a line that says which one it is and why."""
    options: dict[str, Any] = {}
    if choose_engine(config.engine, model)[0] == "vllm":
        options = {
            # The precision that the trainer computes in, and CUDA graphs where there is a GPU.
            "dtype": "bfloat16" if half_precision(config, model.device) else None,
            "enforce_eager": model.device.type != "cuda",
            "max_model_len": config.max_prompt_tokens + config.max_completion_tokens,
            "gpu_memory_utilization": config.vllm_memory,
            "sleep": config.vllm_sleep,
            "trust_remote_code": config.trust_remote_code,
        }
    return make_engine(config.engine, model, tokenizer, **options)


def _stored_config(run_dir: Path) -> LLMConfig:
    if not (run_dir / CONFIG).is_file():
        raise RunDirectoryError(f"run_dir={str(run_dir)!r} holds no run: there is no {CONFIG} in it")
    try:
        stored = dict(json.loads((run_dir / CONFIG).read_text()))
    except (ValueError, TypeError) as error:
        raise RunDirectoryError(f"{run_dir / CONFIG} is damaged: {error}") from error
    if stored.pop("kind", None) != "llm":
        raise CheckpointError(f"{run_dir} holds a run of another kind; resume it with its own command")
    stored = upgraded(stored)
    check_names(LLMConfig, stored)
    return LLMConfig(**stored)
