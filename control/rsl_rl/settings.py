"""Settings of the rsl_rl adapter, and what it makes of those that existing configurations carry."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from r2vpo.dual import DualRule
from r2vpo.errors import ConfigError
from r2vpo.objectives import Objective, make_objective
from r2vpo.validation import Anchor, Count, NonNegative, ObjectiveKwargs, Positive, check_fields, check_objective


class Model(Protocol):
    """What is asked of rsl_rl's models here."""

    is_recurrent: bool


@dataclass(frozen=True)
class Settings:
    """Settings beside those of rsl_rl's PPO, named as in :class:`r2vpo.control.config.ControlConfig`."""

    objective: str = "r2vpo"
    """Surrogate objective; ppo_clip is rsl_rl's own, with its clip_param unless objective_kwargs has eps."""
    dual: DualRule = "adaptive"
    """How lambda moves: fixed, paper or adaptive (see :mod:`r2vpo.dual`)."""
    dual_lam: NonNegative = 1.0
    """First lambda; rsl_rl's ``lam`` is the trace decay of the advantage estimate."""
    delta: Positive | None = 0.1
    """Target of E[(rho-1)^2]; larger allows larger policy steps."""
    eta: Positive | None = None
    """Dual step size; None takes the rule's own."""
    objective_kwargs: ObjectiveKwargs = field(default_factory=dict)
    """Hyperparameters of the objective, such as {"eps": 0.1} for ppo_clip; what is left out keeps its own default."""
    buffer_iterations: Count = 4
    """Rollouts kept for replay, the newest included; 1 is on-policy."""
    utd: Positive = 2.0
    """Update-to-data ratio: gradient samples per new sample, as a multiple of num_learning_epochs."""
    trace_cap: Positive = 1.0
    """Cap of the importance weights inside advantages of replayed rollouts."""
    anchor: Anchor = "behaviour"
    """Where the ratio is 1. behaviour: at the policy that acted; proximal: at the policy that the update starts from,
    and min(1, pi / pi_off) of that policy weighs each advantage."""
    save_buffer: bool = True
    """Whether checkpoints hold the replay buffer; without it a resumed run fills it anew."""

    def __post_init__(self) -> None:
        """Check every field; raises ConfigError."""
        check_fields(self, Settings)
        check_objective(self, densities=True)
        if self.dual != "fixed" and self.delta is None:
            raise ConfigError("delta", None, f"a finite number above 0 for dual={self.dual!r}")
        if self.dual == "adaptive" and self.dual_lam == 0:
            raise ConfigError("dual_lam", self.dual_lam, "above 0 for dual='adaptive'")


def check_names(settings: dict[str, Any], ppo: Iterable[str]) -> None:
    """Raise ConfigError for a setting that is neither one of PPO's own, ``ppo``, nor of :class:`Settings`."""
    known = [*ppo, *(f.name for f in fields(Settings))]
    for name, value in settings.items():
        if name not in known:
            raise ConfigError(name, value, f"left out; the settings are {', '.join(known)}")


def check_features(models: dict[str, Model], ppo: dict[str, Any]) -> None:
    """Raise ConfigError for a model or an extension that this method cannot go with."""
    for name, model in models.items():
        if model.is_recurrent:
            raise ConfigError(name, type(model).__name__, "a model without recurrence: samples are drawn one by one")
    if (ppo.get("symmetry_cfg") or {}).get("use_data_augmentation"):
        allowed = "False: the policy that acted never scored mirrored samples, so their ratio is unknown"
        raise ConfigError("symmetry_cfg.use_data_augmentation", True, f"{allowed} (use_mirror_loss is supported)")


def configured_objective(settings: Settings, ppo: dict[str, Any]) -> Objective:
    """The objective; PPO's own takes its clip range from PPO's setting unless ``objective_kwargs`` has ``eps``."""
    given = dict(settings.objective_kwargs)
    if settings.objective == "ppo_clip" and "clip_param" in ppo:
        given.setdefault("eps", ppo["clip_param"])
    return make_objective(settings.objective, **given)


def fixed_schedule(ppo: dict[str, Any]) -> str:
    """``"fixed"``, with a warning in place of the adaptive schedule that most configurations carry.

    Raises:
        ConfigError: Another schedule.
    """
    schedule = ppo.get("schedule", "fixed")
    if schedule not in ("fixed", "adaptive"):
        raise ConfigError("schedule", schedule, "'fixed' ('adaptive' is taken for it)")
    if schedule == "adaptive":
        # An error would break every configuration of Isaac Lab and mjlab; two controllers of one step would fight.
        warnings.warn(
            "R2VPO ignores schedule='adaptive' and desired_kl: lambda holds the policy to the data (see delta), and "
            f"the learning rate stays at {ppo.get('learning_rate', 1e-3):g}. Set schedule='fixed' to silence this.",
            stacklevel=3,
        )
    return "fixed"
