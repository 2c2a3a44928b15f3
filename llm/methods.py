"""Named methods and presets: what fills the settings that are not given."""

from __future__ import annotations

from typing import Any

from r2vpo.errors import ConfigError
from r2vpo.llm.config import LLMConfig
from r2vpo.llm.tiny_names import REASONING_GYM, is_tiny
from r2vpo.validation import check_names

METHODS: dict[str, dict[str, Any]] = {
    "r2vpo-off": {"algo": "off-policy", "objective": "r2vpo"},
    "r2vpo-on": {"algo": "on-policy", "objective": "r2vpo"},
    "grpo": {"algo": "on-policy", "objective": "ppo_clip"},
    "grpo-replay": {"algo": "off-policy", "objective": "ppo_clip"},
    "clip_higher": {"algo": "on-policy", "objective": "clip_higher"},
    "dapo": {"algo": "on-policy", "objective": "clip_higher", "dynamic_sampling": True},
    "gppo": {"algo": "on-policy", "objective": "gppo"},
    "topr": {"algo": "on-policy", "objective": "topr"},
    "cispo": {"algo": "on-policy", "objective": "cispo"},
    "gspo": {"algo": "on-policy", "objective": "gspo", "loss_aggregation": "seq-mean"},
    "spo": {"algo": "on-policy", "objective": "spo"},
    "none": {"algo": "on-policy", "objective": "none"},
}
"""The paper's two algorithms and the baselines, by the names that --method takes."""

TINY: dict[str, Any] = {
    "prompts_per_iteration": 64,
    "minibatch_size": 128,
    "learning_rate": 1e-4,
    "lr_schedule": "linear",
    "lam": 0.5,
    "total_rollouts": 51_200,
    "max_prompt_tokens": 32,
    "max_completion_tokens": 16,
}
"""A tiny model on its own task. Lambda and learning rate were searched on sums (benchmarks/llm_arithmetic/search)."""

REASONING: dict[str, Any] = {"reward": ("reasoning_gym",), "solved_above": 0.99}
"""reasoning-gym's verifiers give partial credit, and less than 1 to whatever is not right."""

DATASET_DEFAULTS: dict[str, dict[str, Any]] = {
    "arithmetic": {"reward": ("exact",)},
    "gsm8k": {"reward": ("math_verify",)},
    "dapo-math-17k": {"reward": ("math_dapo",)},
}
"""How the answers of a built-in dataset are verified."""


def preset(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that a method, a dataset and a model imply; the arguments that choose are in ``settings``.

    Raises:
        ConfigError: Unknown method.
    """
    method = settings.get("method", LLMConfig.method)
    if method not in METHODS:
        raise ConfigError("method", method, f"one of {', '.join(METHODS)}")
    dataset = settings.get("dataset", LLMConfig.dataset)
    chosen = dict(dataset_defaults(dataset))
    if is_tiny(settings.get("model", LLMConfig.model)):
        chosen |= TINY
    return {"method": method, **METHODS[method], **chosen}


def dataset_defaults(dataset: str) -> dict[str, Any]:
    """How the answers of a dataset are verified, and from which reward on a problem counts as solved."""
    if dataset.startswith(REASONING_GYM):
        return REASONING
    return DATASET_DEFAULTS.get(dataset, {"reward": ("math_verify",)})


def resolve_config(settings: dict[str, Any]) -> LLMConfig:
    """Fill in method and preset around what was given.

    Args:
        settings: Fields of :class:`LLMConfig`.

    Raises:
        ConfigError: A name that is not a setting, or a value outside its range.
    """
    check_names(LLMConfig, settings)
    return LLMConfig(**{**preset(settings), **settings})
