"""Settings per task, with where they come from. Whatever a user gives explicitly wins over these."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from r2vpo.control.config import ControlConfig, check_names


@dataclass(frozen=True)
class Preset:
    """Settings for one task, and the runs they were chosen by."""

    settings: dict[str, Any] = field(default_factory=dict)
    """For every algorithm on the task."""
    on_policy: dict[str, Any] = field(default_factory=dict)
    """Besides those, for R²VPO on-policy."""
    off_policy: dict[str, Any] = field(default_factory=dict)
    """Besides those, for R²VPO off-policy."""
    provenance: str = "defaults, not tuned for this task"
    """Seeds, steps and scores behind the settings."""


PRESETS: dict[str, Preset] = {}

VARIANTS: dict[str, dict[str, Any]] = {
    "r2vpo": {"algo": "off-policy", "objective": "r2vpo"},
    "r2vpo-off": {"algo": "off-policy", "objective": "r2vpo"},
    "r2vpo-on": {"algo": "on-policy", "objective": "r2vpo"},
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
        ConfigError: A name that is not a setting, or a value outside its range.
    """
    check_names(settings)
    plain = ControlConfig()
    preset = PRESETS.get(settings.get("env", plain.env), Preset())
    chosen = dict(preset.settings)
    if settings.get("objective", plain.objective) == "r2vpo":
        off_policy = settings.get("algo", plain.algo) == "off-policy"
        chosen |= preset.off_policy if off_policy else preset.on_policy
    return ControlConfig(**{**chosen, **settings})


def config_dict(config: ControlConfig) -> dict[str, Any]:
    """The settings as plain values, for JSON."""
    return asdict(config)
