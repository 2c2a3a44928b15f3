"""The settings that R²VPO adds to verl's configuration, and the mistakes that are refused before training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import PolicyLossConfig

from r2vpo.dual import DualController
from r2vpo.errors import ConfigError
from r2vpo.objectives import Objective, make_objective
from r2vpo.validation import Anchor, NonNegative, ObjectiveKwargs, Positive, check_fields, check_objective, checked

CONFIG_CLASS = "r2vpo.llm.verl.R2VPOPolicyLossConfig"
POLICY_LOSS = "actor_rollout_ref.actor.policy_loss"
ROLLOUT_CORRECTION = "${algorithm.rollout_correction}"
BYPASS_MODE = "algorithm.rollout_correction.bypass_mode"


@dataclass
class R2VPOPolicyLossConfig(PolicyLossConfig):
    """``actor_rollout_ref.actor.policy_loss`` with objective and dual variable (arXiv 2601.03320, Eqs. 9-12).

    ``rollout_correction``, an attribute that verl's own class has, must point at ``algorithm.rollout_correction``: it
    says against which policy verl computes the ratio, and every trainer of verl reads this class before it starts.

    Raises:
        ConfigError: A value outside its range, or ratios that would be against another policy than ``anchor`` says.
    """

    _mutable_fields: ClassVar[set[str]] = PolicyLossConfig._mutable_fields | {"lam"}

    loss_mode: str = "r2vpo"
    objective: str = "r2vpo"
    """Surrogate objective, a name in :data:`r2vpo.objectives.OBJECTIVES`."""
    objective_kwargs: ObjectiveKwargs = field(default_factory=dict)
    """Hyperparameters of the objective other than lambda, such as ``{eps: 0.1}`` for ppo_clip."""
    lam: NonNegative = 0.04
    """Lambda, or its first value: the weight of (rho-1)^2, at least 0."""
    delta: Positive | None = None
    """Target of E[(rho-1)^2], above 0; none with a fixed lambda."""
    eta: Positive | None = None
    """Dual step size, above 0; none takes the rule's own default."""
    dual: str | None = None
    """``fixed``, ``paper`` (Eq. 12) or ``adaptive``; none is ``fixed`` without a delta and ``paper`` with one."""
    anchor: str = "behaviour"
    """Where the ratio is 1: ``behaviour``, the policy that sampled, or ``proximal``, the one that an update starts
    from; then ``min(1, pi / pi_off)`` of that policy weighs the advantage of each token."""

    def __post_init__(self) -> None:
        if self.loss_mode != "r2vpo":
            raise ConfigError(f"{POLICY_LOSS}.loss_mode", self.loss_mode, f"'r2vpo' with _target_={CONFIG_CLASS}")
        check_fields(self, R2VPOPolicyLossConfig)
        checked("anchor", self.anchor, Anchor)  # a Literal as the annotation is more than OmegaConf can read
        check_objective(self)
        if self.make_objective().needs_minibatch:
            allowed = "one whose loss is a token's or a completion's own: verl shows it one micro-batch at a time"
            raise ConfigError("objective", self.objective, allowed)
        self.make_dual()
        _check_correction(self.rollout_correction, self.anchor)

    def make_objective(self) -> Objective:
        """The objective with its hyperparameters, lambda aside."""
        return make_objective(self.objective, **self.objective_kwargs)

    def make_dual(self) -> DualController:
        """Lambda as these settings begin it; objectives without one leave it there."""
        dual = DualController(self.lam, self.delta, self.eta, self.dual)
        return dual if self.make_objective().uses_dual else DualController(self.lam)


def check_config(config: DictConfig) -> R2VPOPolicyLossConfig:
    """Refuse a run whose ratios would silently be wrong, or whose settings verl would silently ignore.

    Args:
        config: verl's whole configuration.

    Returns:
        The policy-loss settings.

    Raises:
        ConfigError: The first setting that does not fit, with what it must be.
    """
    settings = _policy_loss(config)
    _check_correction(OmegaConf.select(config, "algorithm.rollout_correction"), settings.anchor)
    for name, allowed, reason in REQUIRED:
        value = OmegaConf.select(config, name)
        if value not in allowed:
            raise ConfigError(name, value, f"{' or '.join(map(repr, allowed))}: {reason}")
    if OmegaConf.select(config, "trainer.v1.sampler.custom_sampler.path"):
        _check_sampler(config)
    return settings


REQUIRED: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    (
        "actor_rollout_ref.rollout.calculate_log_probs",
        (True,),
        "the log-probs of the sampling policy come from the rollout engine",
    ),
    (
        "actor_rollout_ref.rollout.logprobs_mode",
        ("processed_logprobs",),
        "raw log-probs leave out the temperature that tokens were sampled at",
    ),
    ("actor_rollout_ref.rollout.top_p", (1.0,), "the trainer's log-probs are over the whole vocabulary"),
    ("actor_rollout_ref.rollout.top_k", (-1, 0), "the trainer's log-probs are over the whole vocabulary"),
    ("trainer.use_v1", (True,), "the older trainer has no sampler and no registry of trainers"),
    ("trainer.v1.trainer_mode", ("r2vpo",), "this trainer moves lambda and saves it"),
    ("distillation.enabled", (False, None), "lambda is sent with verl's PPO loss, which would replace that one"),
)
"""Setting, values allowed, and why."""

IGNORED_WITH_SAMPLER = ("algorithm.filter_groups.enable", "trainer.v1.sampler.sync_refill_failed_groups")
"""verl does not tell a custom sampler about these."""


def _policy_loss(config: DictConfig) -> R2VPOPolicyLossConfig:
    try:
        settings = omega_conf_to_dataclass(OmegaConf.select(config, POLICY_LOSS))
    except InstantiationException as error:
        # Hydra hides which setting was wrong in the cause.
        raise error.__cause__ if isinstance(error.__cause__, ConfigError) else error from None
    if not isinstance(settings, R2VPOPolicyLossConfig):
        raise ConfigError(f"{POLICY_LOSS}._target_", OmegaConf.select(config, f"{POLICY_LOSS}._target_"), CONFIG_CLASS)
    return settings


def _check_correction(correction: Any, anchor: str) -> None:
    """Without the bypass verl computes the old log-probs of what it drew anew, under the policy of now."""
    bypass = anchor == "behaviour"
    value = None if correction is None else correction.get("bypass_mode", False)
    if value is not bypass:
        policy = "that sampled" if bypass else "that the update starts from"
        allowed = f"{bypass} with anchor={anchor!r}, whose ratio is against the policy {policy}"
        allowed += f", and {POLICY_LOSS}.rollout_correction={ROLLOUT_CORRECTION}"
        raise ConfigError(BYPASS_MODE, value, allowed)
    for name in ("rollout_is", "rollout_rs"):
        if correction.get(name) is not None:
            allowed = "null: the ratio, or the weight that anchor='proximal' adds, is the importance weight"
            raise ConfigError(f"algorithm.rollout_correction.{name}", correction.get(name), allowed)


def _check_sampler(config: DictConfig) -> None:
    for name in IGNORED_WITH_SAMPLER:
        if OmegaConf.select(config, name):
            raise ConfigError(name, True, "False with a custom sampler: verl would ignore it")
