"""Settings per task, with where they come from. Whatever a user gives explicitly wins over these."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from r2vpo.control.config import ControlConfig
from r2vpo.errors import ConfigError
from r2vpo.validation import check_names

ON_POLICY = {
    "num_envs": 4,
    "rollout_steps": 512,
    "minibatch_size": 64,
    "learning_rate": 3e-4,
    "lr_schedule": "constant",
}
"""Stable-Baselines3's update budget: 2048 steps an iteration, 320 gradient steps on 64 samples each."""

OFF_POLICY = {
    "num_envs": 8,
    "rollout_steps": 64,
    "minibatch_size": 256,
    "learning_rate": 1e-3,
    "lr_schedule": "linear",
    "delta": 0.03,
}
"""A quarter of that collected per iteration; the buffer then holds what an on-policy iteration would collect."""


FAST = {
    "algo": "off-policy",
    "overlap": True,
    "num_envs": 32,
    "rollout_steps": 32,
    "minibatch_size": 256,
    "utd": 1.4,
    "learning_rate": 1e-3,
    "lr_schedule": "linear",
    "delta": 0.05,
}
"""Twice as many samples an iteration as OFF_POLICY and fewer gradient steps a sample, both at the same time.

Chosen by the trials in benchmarks/control_tuning.jsonl whose names begin with "fast" (300k steps, seeds 100 to 102).
More gradient steps would make the collector wait for the learner."""


@dataclass(frozen=True)
class Preset:
    """Settings for one task, and the runs they were chosen by."""

    on_policy: dict[str, Any] = field(default_factory=dict)
    """For every objective without replay, over ON_POLICY."""
    off_policy: dict[str, Any] = field(default_factory=dict)
    """For every objective with replay, over OFF_POLICY."""
    provenance: str = "not tuned for this task"
    """Seeds, steps and scores behind the settings."""


_TRIALS = "off-policy on seeds 100 and 101, 300k steps, mean of 10 deterministic episodes"

PRESETS: dict[str, Preset] = {
    "HalfCheetah-v5": Preset(
        off_policy={"delta": 0.1},
        provenance=f"{_TRIALS}: these gave 4081 and 1580, minibatches of 64 at 3e-4 1786 and 1644, "
        "delta 0.03 gave 1499 and 1590; PPO with ON_POLICY 1569 and 1544",
    ),
    "Hopper-v5": Preset(
        provenance=f"{_TRIALS}: OFF_POLICY gave 3536 and 3416, with delta 0.1 3627 and 296, with minibatches of 64 at "
        "3e-4 3511 and 3420 (on seeds 0 to 2 1291, 3175 and 3580, in thrice the time); PPO with ON_POLICY 1282 and 3073"
    ),
    "Walker2d-v5": Preset(
        provenance=f"{_TRIALS}: OFF_POLICY gave 832 and 2671, with delta 0.1 1776 and 558, with minibatches of 64 at "
        "3e-4 3321 and 2817 (on seeds 0 and 1 4066 and 2321, in thrice the time); PPO with ON_POLICY 3484 and 755"
    ),
}
"""Every trial behind these is in benchmarks/control_tuning.jsonl."""

VARIANTS: dict[str, dict[str, Any]] = {
    "r2vpo": {"algo": "off-policy", "objective": "r2vpo"},
    "r2vpo-off": {"algo": "off-policy", "objective": "r2vpo"},
    "r2vpo-on": {"algo": "on-policy", "objective": "r2vpo"},
    "r2vpo-off-overlap": {"algo": "off-policy", "objective": "r2vpo", "overlap": True},
    "r2vpo-on-overlap": {"algo": "on-policy", "objective": "r2vpo", "overlap": True},
    "r2vpo-fast": {"preset": "fast", "objective": "r2vpo"},
    "ppo-fast": {"preset": "fast", "objective": "ppo_clip"},
    "ppo": {"algo": "on-policy", "objective": "ppo_clip"},
    "ppo-replay": {"algo": "off-policy", "objective": "ppo_clip"},
    "clip_higher": {"algo": "on-policy", "objective": "clip_higher"},
    "gppo": {"algo": "on-policy", "objective": "gppo"},
    "topr": {"algo": "on-policy", "objective": "topr"},
    "spo": {"algo": "on-policy", "objective": "spo"},
    "cispo": {"algo": "on-policy", "objective": "cispo"},
    "gspo": {"algo": "on-policy", "objective": "gspo"},
    "none": {"algo": "on-policy", "objective": "none"},
}
"""Names of our own algorithms in comparisons."""


def resolve_config(settings: dict[str, Any]) -> ControlConfig:
    """Fill in the preset of the task around what was given.

    Args:
        settings: Fields of :class:`ControlConfig`, ``env`` among them.

    Raises:
        ConfigError: A name that is not a setting, a value outside its range, or the fast preset on-policy.
    """
    check_names(ControlConfig, settings)
    if settings.get("preset") == "fast" and settings.get("algo") == "on-policy":
        raise ConfigError("preset", "fast", "'default' with algo='on-policy': the fast one collects ahead and replays")
    preset = PRESETS.get(settings.get("env", ControlConfig.env), Preset())
    if settings.get("preset") == "fast":
        chosen = {**FAST, **preset.off_policy}
    elif settings.get("algo", ControlConfig.algo) == "on-policy":
        chosen = {**ON_POLICY, **preset.on_policy}
    else:
        chosen = {**OFF_POLICY, **preset.off_policy}
    return ControlConfig(**{**chosen, **settings})


def config_dict(config: ControlConfig) -> dict[str, Any]:
    """The settings as plain values, for JSON."""
    return asdict(config)
