"""Settings that fit together, the same for every task; whatever is given explicitly wins.

The defaults of :class:`ControlConfig` are those of R²VPO on- and off-policy: the recipe of Tianshou's PPO but for its
objective, unscaled advantages and long decay of the learning rate (2048 steps an iteration of 64 environments, 10
passes of 64 samples a step, values and advantages anew before each), and off-policy the rollout before the newest too.

What adapts to a task is delta: it follows the size of the action (:func:`r2vpo.dual.joint_delta`). The trials behind
the numbers are in benchmarks/control_tuning*, and docs/results/tuning.md says what they showed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from r2vpo.control.config import ControlConfig
from r2vpo.errors import ConfigError
from r2vpo.validation import check_names, check_values, upgraded

FAST = {
    "algo": "off-policy",
    "overlap": True,
    "num_envs": 32,
    "rollout_steps": 32,
    "minibatch_size": 256,
    "buffer_iterations": 4,
    "utd": 1.4,
    "learning_rate": 1e-3,
    "delta": 0.05,
    "lr_schedule": "linear",
    "anchor": "behaviour",
    "reward_floor": 0.0,
    "advantage_scope": "update",
    "stagger": False,
    "estimates": 1,
    "log_std_init": 0.0,
}
"""Twice as many samples an iteration as by default and fewer gradient steps a sample, both at the same time.

Chosen by the trials in benchmarks/control_tuning.jsonl whose names begin with "fast" (300k steps, seeds 100 to 102).
More gradient steps would make the collector wait for the learner. With so few of them, the delta that suits the default
holds the policy back: Hopper and Walker2d ended near 1000."""


_SB3 = {"num_envs": 4, "rollout_steps": 512, "estimates": 1, "log_std_init": 0.0}
"""What Stable-Baselines3's PPO does otherwise: 2048 steps an iteration, advantages once, a first deviation of 1."""

_OBJECTIVES = (
    *("onesided", "spo", "clip_higher", "gppo", "topr", "cispo", "gspo", "none"),
    *("sapo", "m2po", "vespo", "asymre", "log2"),
)
"""Those with a name of their own in comparisons, NAME on-policy and NAME-off off-policy."""

VARIANTS: dict[str, dict[str, Any]] = {
    "r2vpo": {"algo": "off-policy", "objective": "r2vpo"},
    "r2vpo-off": {"algo": "off-policy", "objective": "r2vpo"},
    "r2vpo-on": {"algo": "on-policy", "objective": "r2vpo"},
    "r2vpo-off-overlap": {"algo": "off-policy", "objective": "r2vpo", "overlap": True},
    "r2vpo-on-overlap": {"algo": "on-policy", "objective": "r2vpo", "overlap": True},
    "r2vpo-fast": {"preset": "fast", "objective": "r2vpo"},
    "ppo-fast": {"preset": "fast", "objective": "ppo_clip"},
    "ppo": {"algo": "on-policy", "objective": "ppo_clip", **_SB3},
    "ppo-best": {"algo": "on-policy", "objective": "ppo_clip", "value_coef": 0.25},
    "ppo-replay": {"algo": "off-policy", "objective": "ppo_clip"},
    **{name: {"algo": "on-policy", "objective": name} for name in _OBJECTIVES},
    **{f"{name}-off": {"algo": "off-policy", "objective": name} for name in _OBJECTIVES},
}
"""Names of our own algorithms in comparisons."""


def resolve_config(settings: dict[str, Any]) -> ControlConfig:
    """Fill in the algorithm's preset around what was given.

    Args:
        settings: Fields of :class:`ControlConfig`, ``env`` among them.

    Raises:
        ConfigError: A name that is not a setting, a value outside its range, or the fast preset on-policy.
    """
    settings = upgraded(settings)
    check_names(ControlConfig, settings)
    settings = check_values(ControlConfig, settings)
    if settings.get("preset") == "fast" and settings.get("algo") == "on-policy":
        raise ConfigError("preset", "fast", "'default' with algo='on-policy': the fast one collects ahead and replays")
    chosen = FAST if settings.get("preset") == "fast" else {}
    return ControlConfig(**{**chosen, **settings})


UNSAID = {"anchor": "behaviour", "estimates": 1}
"""What settings of now were before they had a name, in saved settings that lack them."""


def saved_config(settings: Mapping[str, Any]) -> ControlConfig:
    """The settings of a run, as this or an earlier version saved them whole; raises ConfigError."""
    return ControlConfig(**{**UNSAID, **upgraded(settings)})


def config_dict(config: ControlConfig) -> dict[str, Any]:
    """The settings as plain values, for JSON."""
    return asdict(config)


def warn_of_stale_anchor(config: ControlConfig) -> None:
    """On-policy, the penalty would hold each policy near the one before the last, and so undo the last update."""
    stale = config.overlap and config.algo == "on-policy" and config.anchor == "behaviour"
    if stale and config.objective in ("r2vpo", "spo", "onesided"):
        warnings.warn(
            "overlap=True with algo='on-policy' and anchor='behaviour': every rollout is one update old, and the "
            "penalty on the ratio then pulls the policy back to where it was; Hopper and Walker2d learn little. "
            "anchor='proximal' holds it to where it is",
            stacklevel=3,
        )
