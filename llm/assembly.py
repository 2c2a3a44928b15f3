"""What a trainer is made of, from its config and from what the caller passed as objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from r2vpo.errors import ConfigError
from r2vpo.llm.config import LLMConfig
from r2vpo.llm.data.prompts import Problem
from r2vpo.llm.data.rows import as_rows, load_rows
from r2vpo.llm.distributed import AcceleratedProcesses
from r2vpo.llm.engines.choice import choose_engine, make_engine
from r2vpo.llm.learner import half_precision
from r2vpo.llm.rewards import RewardFunction, make_reward, score

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from r2vpo.llm.engines.base import RolloutEngine
    from r2vpo.llm.rewards import RewardBatch

GIVEN = "given"
"""Stands in the config for a model, a dataset or a reward that was passed as an object."""

RewardArgument = str | RewardFunction | Sequence[str | RewardFunction]


@dataclass
class GivenObjects:
    """What the caller passed; None where the config's names hold."""

    model: PreTrainedModel | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    rows: Sequence[dict[str, Any]] | None = None
    eval_rows: Sequence[dict[str, Any]] | None = None
    rewards: list[str | RewardFunction] | None = None


def sort_arguments(
    model: str | PreTrainedModel | None,
    reward_funcs: RewardArgument | None,
    train_dataset: Any,
    eval_dataset: Any,
    processing_class: PreTrainedTokenizerBase | None,
) -> tuple[GivenObjects, dict[str, Any]]:
    """Objects on one side; on the other the settings that the arguments stand for."""
    given, settings = GivenObjects(tokenizer=processing_class), {}
    if isinstance(model, str):
        settings["model"] = model
    elif model is not None:
        given.model = model
        settings["model"] = getattr(model.config, "_name_or_path", "") or GIVEN
    if isinstance(train_dataset, str):
        settings["dataset"] = train_dataset
    elif train_dataset is not None:
        given.rows = as_rows(train_dataset)
        settings["dataset"] = GIVEN
    if isinstance(eval_dataset, str):
        settings["eval_dataset"] = eval_dataset
    elif eval_dataset is not None:
        given.eval_rows = as_rows(eval_dataset)
        settings["eval_dataset"] = GIVEN
    if reward_funcs is not None:
        single = isinstance(reward_funcs, str) or callable(reward_funcs)
        given.rewards = [reward_funcs] if single else list(reward_funcs)  # type: ignore[list-item, arg-type]
        settings["reward"] = tuple(f if isinstance(f, str) else f.__name__ for f in given.rewards)
    return given, settings


def training_rows(config: LLMConfig, given: GivenObjects) -> Sequence[dict[str, Any]]:
    """Rows to train on."""
    if given.rows is not None:
        return given.rows
    if config.dataset == GIVEN:
        raise ConfigError("train_dataset", None, "the rows that this run was started with")
    return load_rows(config.dataset, "train", prompt_column=config.prompt_column)


def held_out_rows(config: LLMConfig, given: GivenObjects) -> Sequence[dict[str, Any]]:
    """Rows to evaluate on; none where neither the caller nor the dataset has a held-out part."""
    if given.eval_rows is not None:
        return given.eval_rows
    if config.eval_dataset == GIVEN:
        raise ConfigError("eval_dataset", None, "the rows that this run was started with")
    if config.eval_dataset is not None:
        return load_rows(config.eval_dataset, "test", prompt_column=config.prompt_column)
    if given.rows is not None or not has_held_out_split(config.dataset):
        return []
    return load_rows(config.dataset, "test", prompt_column=config.prompt_column)


def has_held_out_split(dataset: str) -> bool:
    """Whether a dataset of this name comes with held-out problems of its own."""
    return dataset in ("arithmetic", "gsm8k") or dataset.startswith("reasoning-gym:")


def make_scorer(config: LLMConfig, given: GivenObjects) -> Callable[[Sequence[Problem], Sequence[str]], RewardBatch]:
    """Reward functions and weights as one function of problems and answers."""
    wanted = given.rewards if given.rewards is not None else list(config.reward)
    functions = [
        (f, make_reward(f, **_reward_options(f, config))) if isinstance(f, str) else (f.__name__, f) for f in wanted
    ]
    weights = config.reward_weights or (1.0,) * len(functions)
    column = config.prompt_column

    def score_completions(problems: Sequence[Problem], texts: Sequence[str]) -> RewardBatch:
        rows = [problem.row for problem in problems]
        names = {name for row in rows for name in row} - {column, "completion", "completions", "prompts"}
        columns = {name: [row.get(name) for row in rows] for name in names}
        return score(functions, weights, [row[column] for row in rows], list(texts), columns)

    return score_completions


def _reward_options(name: str, config: LLMConfig) -> dict[str, Any]:
    return {"timeout_seconds": config.reward_timeout} if name in ("math_verify", "reasoning_gym") else {}


def start_engine(
    config: LLMConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[RolloutEngine, str]:
    """The engine of the config, and a line that says which one it is and why."""
    name, _ = choose_engine(config.engine, model)
    options: dict[str, Any] = {}
    if name == "vllm":
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


def load_policy_model(
    config: LLMConfig, given: GivenObjects, processes: AcceleratedProcesses
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model on this process's device, and its tokenizer."""
    from r2vpo.llm.models.loading import load_model, load_tokenizer

    if given.model is not None:
        if given.tokenizer is None:
            raise ConfigError("processing_class", None, "a tokenizer where the model is passed as an object")
        return given.model.to(processes.device), given.tokenizer  # type: ignore[arg-type]
    if config.model == GIVEN:
        raise ConfigError("model", None, "the model object that this run was started with")
    tokenizer = given.tokenizer or load_tokenizer(config.model, trust_remote_code=config.trust_remote_code)
    torch.manual_seed(config.seed)  # the first weights of LoRA adapters
    model = load_model(
        config.model,
        dtype=config.dtype,
        attention=config.attention,
        trust_remote_code=config.trust_remote_code,
        gradient_checkpointing=config.gradient_checkpointing,
        lora_rank=config.lora_rank,
        lora_alpha=config.lora_alpha,
    )
    return model.to(processes.device), tokenizer
