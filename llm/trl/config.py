"""Settings of the TRL adapter: TRL's own, and those of :class:`r2vpo.llm.config.LLMConfig` that mean the same here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from trl import GRPOConfig

from r2vpo.dual import DualRule
from r2vpo.errors import ConfigError
from r2vpo.objectives import OBJECTIVES
from r2vpo.validation import Anchor, Count, NonNegative, Positive, check_dual, check_fields, check_objective

_RATIO = "no shaping of the sampling distribution, which the trainer's log-probs would not know: every ratio is wrong"

_ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "beta": ((0.0,), "0: the objective has no KL term to a reference model"),
    "loss_type": (("dapo",), "'dapo', the mean over all tokens; objective chooses the loss"),
    "importance_sampling_level": (
        ("token",),
        "'token'; gspo, and topr with level='sequence', have sequence ratios",
    ),
    "epsilon": ((0.2,), "left out; the clip ranges of the baselines go into objective_kwargs"),
    "epsilon_high": ((None,), "left out; the clip ranges of the baselines go into objective_kwargs"),
    "vllm_importance_sampling_correction": ((False,), "False: the ratio is taken against the sampling policy itself"),
    "off_policy_mask_threshold": ((None,), "None: the penalty bounds the ratio, no sequence is masked"),
    "top_entropy_quantile": ((1.0,), "1: every token counts"),
    "entropy_coef": ((0.0,), "0: the objective has no entropy bonus"),
    "use_adaptive_entropy": ((False,), "False: the objective has no entropy bonus"),
    "top_p": ((1.0,), f"1 in training: {_RATIO}"),
    "top_k": ((0, None), f"0 in training: {_RATIO}"),
    "min_p": ((None, 0.0), f"None in training: {_RATIO}"),
    "repetition_penalty": ((1.0,), f"1 in training: {_RATIO}"),
    "vllm_structured_outputs_regex": ((None,), f"None in training: {_RATIO}"),
}
"""Settings of TRL that this trainer cannot follow: the values that it takes, and what to do instead."""

_SHAPING = (
    *("temperature", "do_sample", "num_beams", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram_size", "logit_bias"),
    *("bad_words_ids", "bad_words", "suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id", "min_tokens"),
    *("min_length", "min_new_tokens", "allowed_token_ids", "sequence_bias", "guidance_scale", "structured_outputs"),
)
"""Keys of ``generation_kwargs`` that change what is sampled without the trainer's log-probs knowing."""


# ruff: noqa: RUF009  (it is dataclasses.field)
def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class R2VPOConfig(GRPOConfig):
    """:class:`trl.GRPOConfig` with the objective, the dual variable and the replay (arXiv 2601.03320, Algorithm 2).

    ``delta`` is the target of the ratio variance here, not TRL's bound of two-sided clipping. ``num_iterations`` is
    set to ``utd``. Importance-sampling correction is off and dropout is disabled by default.

    Raises:
        ConfigError: A value outside its range, or a setting of TRL's that contradicts the objective.
    """

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*GRPOConfig._VALID_DICT_FIELDS, "objective_kwargs"]

    objective: str = _setting("r2vpo", "Surrogate objective: " + ", ".join(OBJECTIVES) + ".")
    dual: DualRule = _setting(
        "fixed", "How lambda moves: fixed, the paper's gradient step, or a relative (adaptive) step."
    )
    lam: NonNegative = _setting(0.04, "First lambda. Larger holds the policy closer to the data.")
    delta: Positive | None = _setting(None, "Target of E[(rho-1)^2]; unused when dual is fixed.")
    eta: Positive | None = _setting(None, "Dual step size; None takes the rule's own.")
    objective_kwargs: dict[str, Any] | str = field(
        default_factory=dict,
        metadata={"help": 'Hyperparameters of the objective, such as {"eps": 0.1} for ppo_clip.'},
    )
    buffer_iterations: Count = _setting(4, "Generation batches kept for replay; 1 is on-policy.")
    utd: int = _setting(2, "Update-to-data ratio: completions trained on per new completion.")
    anchor: Anchor = _setting(
        "behaviour",
        "Where the ratio is 1. behaviour: at the policy that sampled; proximal: at the policy that the first step on a "
        "generation batch starts from, and min(1, pi / pi_off) of that policy weighs the advantage of each token.",
    )
    behaviour_log_probs: Literal["engine", "trainer"] = _setting(
        "engine",
        "Whose log-probs of the sampled tokens are stored: engine takes those of vLLM or of a rollout_func where it "
        "returns them, and else, as trainer always, the trainer's own before the first update.",
    )
    vllm_importance_sampling_correction: bool = _setting(False, "Must be False: rho is against the sampling policy.")
    disable_dropout: bool = _setting(True, "Dropout would make the ratio differ from 1 before the first update.")

    def __post_init__(self) -> None:
        """Complete TRL's settings, check all; raises ConfigError."""
        super().__post_init__()
        check_config(self)
        self.num_iterations = int(self.utd)

    @property
    def draws_per_generation(self) -> int:
        """Micro-batches that each process trains on per generation batch."""
        return int(self.utd) * int(self.steps_per_generation)


def check_config(config: R2VPOConfig) -> None:
    """Raise ConfigError for the first setting with a value that is not allowed."""
    check_fields(config, R2VPOConfig)
    if not 0 < config.temperature < math.inf:
        raise ConfigError("temperature", config.temperature, "a finite number above 0")
    check_objective(config)
    check_dual(config)
    for check in (_only, _sampling, _utd, _whole_windows):
        check(config)


def _only(config: R2VPOConfig) -> None:
    for name, (values, allowed) in _ONLY.items():
        if getattr(config, name) not in values:
            raise ConfigError(name, getattr(config, name), allowed)


def _sampling(config: R2VPOConfig) -> None:
    for name in config.generation_kwargs or {}:
        if name in _SHAPING:
            raise ConfigError("generation_kwargs", config.generation_kwargs, f"without {name}: {_RATIO}")


def _utd(config: R2VPOConfig) -> None:
    number = isinstance(config.utd, int | float) and not isinstance(config.utd, bool)
    if not number or config.utd < 1 or config.utd % 1:
        raise ConfigError("utd", config.utd, "a whole number of at least 1")
    if config.num_iterations not in (1, config.utd):
        raise ConfigError("num_iterations", config.num_iterations, f"left out; utd={config.utd} sets it")


def _whole_windows(config: R2VPOConfig) -> None:
    # The loss is divided by the tokens of the whole optimizer step, so all of it must be drawn before its first part.
    if config.draws_per_generation % config.gradient_accumulation_steps:
        product = f"utd * steps_per_generation = {config.draws_per_generation}"
        raise ConfigError("gradient_accumulation_steps", config.gradient_accumulation_steps, f"a divisor of {product}")
