"""Every setting of the language-model trainer, and the named methods that fill them. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Interval, MinLen

from r2vpo.dual import DualRule
from r2vpo.errors import ConfigError
from r2vpo.llm.data.rows import dataset_defaults
from r2vpo.llm.models.tiny_names import tiny_preset
from r2vpo.validation import (
    Anchor,
    Count,
    NonNegative,
    ObjectiveKwargs,
    Positive,
    Track,
    Whole,
    check_dual,
    check_fields,
    check_names,
    check_objective,
    check_values,
    upgraded,
)

_RENAMED = (
    "num_generations=group_size num_iterations=epochs max_completion_length=max_completion_tokens "
    "max_prompt_length=max_prompt_tokens scale_rewards=advantage_scale reward_funcs=reward train_dataset=dataset "
    "lr_scheduler_type=lr_schedule warmup_steps=warmup_iterations vllm_gpu_memory_utilization=vllm_memory "
    "attn_implementation=attention torch_dtype=dtype"
)
_ELSEWHERE = {
    **{theirs: f"it is called {ours} here" for theirs, ours in (pair.split("=") for pair in _RENAMED.split())},
    "num_train_epochs": "the length of a run is total_rollouts here, counted in completions",
    "max_steps": "the length of a run is total_rollouts here, counted in completions",
    "per_device_train_batch_size": "minibatch_size completions make a step; tokens_per_micro_batch splits them",
    "gradient_accumulation_steps": "minibatch_size completions make a step; tokens_per_micro_batch splits them",
    "steps_per_generation": "prompts_per_iteration * group_size completions are generated, minibatch_size make a step",
    "beta": "there is no KL term and no reference model; lam weighs the penalty on the ratio variance",
    "epsilon": "R²VPO does not clip; objective='ppo_clip' does, with objective_kwargs={'eps': ...}",
    "epsilon_high": "R²VPO does not clip; objective='clip_higher' does, with objective_kwargs={'eps_high': ...}",
    "clip_range": "R²VPO does not clip; objective='ppo_clip' does, with objective_kwargs={'eps': ...}",
    "loss_type": "objective and loss_aggregation say it here",
    "importance_sampling_level": "objective='gspo' weighs whole sequences",
    "warmup_ratio": "it is called warmup_iterations here, counted in iterations",
    "use_vllm": "engine='vllm' here",
    "bf16": "mixed_precision='bf16' here",
    "peft_config": "lora_rank and lora_alpha make adapters here",
    "eval_steps": "it is called eval_every here, counted in iterations",
    "logging_steps": "every iteration is logged",
    "output_dir": "run_dir is where a run is written here",
    "report_to": "it is called track here; run_dir gets the events for TensorBoard in any case",
    "verbose": "--quiet hides the live line",
}


@dataclass(frozen=True)
class LLMConfig:
    """Settings of one run. A method and a preset fill them; anything given explicitly wins."""

    MAIN: ClassVar[tuple[str, ...]] = (
        *("model", "dataset", "method", "reward", "total_rollouts", "seed", "dual", "lam", "delta", "group_size"),
        *("prompts_per_iteration", "minibatch_size", "learning_rate", "max_completion_tokens", "engine"),
    )
    """Settings that ``--help`` shows; ``--help-advanced`` shows all."""
    ELSEWHERE: ClassVar[dict[str, str]] = _ELSEWHERE
    """What the names that TRL and others give to settings are here."""

    model: str = "arithmetic"
    """Directory, hub name, SmolLM2-135M-Instruct, or a tiny model that is made here in minutes: arithmetic,
    expressions, and reasoning-gym:TASK for a task that a model this small learns."""
    dataset: str = "arithmetic"
    """Training problems: arithmetic, expressions, gsm8k, dapo-math-17k, reasoning-gym:TASK, with settings as in
    reasoning-gym:gcd,max_value=60, a JSONL or parquet file, a hub name."""
    eval_dataset: str | None = None
    """Held-out problems; None takes the test split of the dataset where it has one."""
    method: str = "r2vpo-off"
    """Named algorithm that fills in algo, objective and what its paper prescribes."""
    algo: Literal["on-policy", "off-policy"] = "off-policy"
    """on-policy discards each rollout after its update (Algorithm 1); off-policy replays the last few (Algorithm 2)."""
    objective: str = "r2vpo"
    """Surrogate objective; ppo_clip makes this trainer GRPO."""
    total_rollouts: Count = 128_000
    """Completions to train on, rounded up to whole iterations."""
    seed: Whole = 0
    """Seed of everything random. Same seed, same run, bit for bit on one CPU with Hugging Face rollouts."""

    dual: DualRule = "fixed"
    """How lambda moves: fixed (the paper's default), the paper's gradient step, or a relative step."""
    lam: NonNegative = 0.04
    """First lambda. Larger holds the policy closer to the data."""
    delta: Positive | None = None
    """Target of E[(rho-1)^2]; unused when dual is fixed."""
    eta: Positive | None = None
    """Dual step size; None takes the rule's own."""
    objective_kwargs: ObjectiveKwargs = field(default_factory=dict)
    """Hyperparameters of the objective, such as {"eps": 0.1} for ppo_clip; what is left out keeps its own default."""

    group_size: Annotated[int, Ge(2)] = 8
    """Completions per prompt, G."""
    prompts_per_iteration: Count = 128
    """Prompts per iteration; times group_size completions are generated."""
    minibatch_size: Count = 256
    """Completions per gradient step. One step per rollout makes every objective the same (the ratio is then 1)."""
    epochs: Count = 1
    """Passes over one iteration's worth of completions."""
    buffer_iterations: Count = 4
    """Iterations kept for replay when off-policy."""
    utd: Positive = 2.0
    """Update-to-data ratio when off-policy: gradient samples per new sample, as a multiple of the epochs."""
    stop_above: Positive | None = None
    """End an update once E[(rho-1)^2] on the newest completions is above this; None takes all of its steps."""
    anchor: Anchor = "behaviour"
    """Where the ratio is 1. behaviour: at the policy that sampled, the paper's literal form; proximal: at the policy
    that the update starts from. That one scores the buffer once, and min(1, pi / pi_off) weighs each advantage."""
    advantage_scale: Literal["group", "none"] = "group"
    """group divides by the standard deviation of the group's rewards; none only subtracts their mean."""
    loss_aggregation: Literal["token-mean", "seq-mean"] = "token-mean"
    """token-mean weighs every token alike, seq-mean every completion."""
    keep: Literal["all", "informative"] = "all"
    """informative leaves out completions with advantage 0: they carry only the penalty."""
    dynamic_sampling: bool = False
    """Sample further prompts until every group has mixed rewards (DAPO)."""
    max_sampling_rounds: Count = 4
    """With dynamic_sampling, most rounds of generation per iteration."""
    overlong_tokens: Whole = 0
    """Width of DAPO's soft punishment before max_completion_tokens; 0 is off."""

    learning_rate: Positive = 1e-6
    """First AdamW learning rate."""
    lr_schedule: Literal["linear", "constant"] = "constant"
    """linear decays the learning rate to 0 at total_rollouts."""
    warmup_iterations: Whole = 0
    """Iterations over which the learning rate rises linearly from 0."""
    weight_decay: NonNegative = 0.0
    """AdamW's decoupled weight decay."""
    max_grad_norm: Positive = 1.0
    """Joint gradient norm above which gradients are scaled down."""
    tokens_per_micro_batch: Count = 16_384
    """Most tokens, padding included, scored at once; lower it when memory runs out. Results do not depend on it."""

    temperature: Positive = 1.0
    """Sampling temperature; the trainer divides its logits by it too."""
    max_prompt_tokens: Count = 1024
    """Longer prompts are left out, counted and reported."""
    max_completion_tokens: Count = 1024
    """Completions are cut here."""
    engine: Literal["auto", "hf", "vllm"] = "auto"
    """What generates: vllm where it is installed and there is a GPU, else hf."""
    vllm_memory: Annotated[float, Interval(gt=0, le=1)] = 0.3
    """Fraction of the GPU's memory that vLLM may take beside the trainer."""
    vllm_sleep: bool = False
    """Free vLLM's GPU memory during the update."""
    behaviour_log_probs: Literal["engine", "trainer"] = "engine"
    """Whose log-probs of the sampled tokens are stored: the engine's, or the trainer's own before the first update."""

    reward: Annotated[tuple[str, ...], MinLen(1)] = ("exact",)
    """Reward functions by name, or package.module:function."""
    reward_weights: tuple[float, ...] | None = None
    """Weight of each in the sum; None weighs all 1."""
    reward_timeout: Positive = 10.0
    """Seconds after which a verifier process is stopped; its verdict is then missing, not 0."""
    prompt_column: str = "prompt"
    """Column of the dataset that holds the prompt: text, or chat messages."""
    answer_column: str = "answer"
    """Column that holds the ground truth; rewards get it as answer."""
    prompt_template: str | None = None
    """Text around a plain prompt, with {prompt} in it."""
    system_prompt: str | None = None
    """First message of a chat."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Of the trained weights. Small learning rates vanish in the rounding of bfloat16."""
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    """auto computes in bfloat16 on a GPU, in float32 elsewhere."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Attention implementation; auto takes flash attention where it is installed."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""
    lora_rank: Whole = 0
    """Train low-rank adapters of this rank instead of the weights; 0 trains the weights."""
    lora_alpha: Positive | None = None
    """Scale of the adapters; None is twice the rank."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    torch_threads: Whole = 0
    """Threads of torch; 0 leaves torch's own choice."""

    eval_every: Whole = 10
    """Iterations between evaluations on held-out problems; 0 leaves them out."""
    eval_samples_on_the_way: Whole = 1
    """Sampled answers per held-out problem in each of these, beside the greedy one; 0 leaves them out."""
    eval_problems: Count = 500
    """Held-out problems evaluated, at most."""
    solved_above: float = 0.0
    """A held-out problem is solved when the reward of its answer is above this: rewards are 1 / 0, or +1 / -1."""
    eval_samples: Whole = 4
    """Sampled answers per held-out problem in the evaluation that closes a run; 0 leaves it out."""
    checkpoint_seconds: NonNegative = 60.0
    """Longest time between checkpoints of a run with a run directory."""
    track: Track = ()
    """Where the run is tracked besides its directory; each is a package of its own, set up by its own variables."""
    log_completions: Whole = 8
    """Completions written to completions.jsonl each iteration."""

    def __post_init__(self) -> None:
        """Check every field; raises ConfigError."""
        check_fields(self, LLMConfig)
        check_objective(self)
        check_dual(self)
        _check_minibatch(self)
        _check_texts_and_rewards(self)

    @property
    def iteration_size(self) -> int:
        """Completions per iteration."""
        return self.prompts_per_iteration * self.group_size

    @property
    def stored_iterations(self) -> int:
        """Iterations in the buffer; 1 when on-policy."""
        return self.buffer_iterations if self.algo == "off-policy" else 1

    @property
    def passes(self) -> float:
        """Completions drawn per new completion in one update."""
        return self.epochs * (self.utd if self.algo == "off-policy" else 1.0)


def _check_minibatch(config: LLMConfig) -> None:
    if config.minibatch_size > config.iteration_size:
        size = f"{config.prompts_per_iteration} * {config.group_size} = {config.iteration_size}"
        allowed = f"at most prompts_per_iteration * group_size = {size}"
        raise ConfigError("minibatch_size", config.minibatch_size, allowed)


def _check_texts_and_rewards(config: LLMConfig) -> None:
    weights = config.reward_weights
    if weights is not None and (len(weights) != len(config.reward) or not any(weights)):
        raise ConfigError("reward_weights", weights, f"one weight for each of reward={config.reward}, not all 0")
    if config.overlong_tokens >= config.max_completion_tokens:
        allowed = f"below max_completion_tokens={config.max_completion_tokens}"
        raise ConfigError("overlong_tokens", config.overlong_tokens, allowed)
    if config.prompt_template is not None and "{prompt}" not in config.prompt_template:
        raise ConfigError("prompt_template", config.prompt_template, "a text with {prompt} in it, or None")


_ON_POLICY = ("clip_higher", "gppo", "topr", "cispo", "spo", "none")

METHODS: dict[str, dict[str, Any]] = {
    "r2vpo-off": {"algo": "off-policy", "objective": "r2vpo"},
    "r2vpo-off-paper": {"algo": "off-policy", "objective": "r2vpo", "utd": 2.0, "buffer_iterations": 4, "lam": 0.04},
    "r2vpo-on": {"algo": "on-policy", "objective": "r2vpo"},
    "grpo": {"algo": "on-policy", "objective": "ppo_clip"},
    "grpo-replay": {"algo": "off-policy", "objective": "ppo_clip"},
    "dapo": {"algo": "on-policy", "objective": "clip_higher", "dynamic_sampling": True},
    "gspo": {"algo": "on-policy", "objective": "gspo", "loss_aggregation": "seq-mean"},
    "sapo": {"algo": "on-policy", "objective": "sapo", "loss_aggregation": "seq-mean"},
    **{name: {"algo": "on-policy", "objective": name} for name in _ON_POLICY},
    **{name: {"algo": "on-policy", "objective": name, "advantage_scale": "none"} for name in ("dppo", "drpo")},
    **{name: {"algo": "off-policy", "objective": name} for name in ("onesided", "m2po", "vespo")},
    **{name: {"algo": "off-policy", "objective": name, "advantage_scale": "none"} for name in ("asymre", "log2")},
}
"""The paper's two algorithms and the baselines, by the names that --method takes."""


def preset(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that a method, a dataset and a model imply; the arguments that choose are in ``settings``.

    Raises:
        ConfigError: Unknown method.
    """
    method = settings.get("method", LLMConfig.method)
    if method not in METHODS:
        raise ConfigError("method", method, f"one of {', '.join(METHODS)}")
    dataset, model = settings.get("dataset", LLMConfig.dataset), settings.get("model", LLMConfig.model)
    return {"method": method, **dataset_defaults(dataset), **tiny_preset(model), **METHODS[method]}


def resolve_config(settings: dict[str, Any]) -> LLMConfig:
    """Fill in method and preset around what was given.

    Args:
        settings: Fields of :class:`LLMConfig`.

    Raises:
        ConfigError: A name that is not a setting, or a value outside its range.
    """
    settings = upgraded(settings)
    check_names(LLMConfig, settings)
    check_values(LLMConfig, settings)
    return LLMConfig(**{**preset(settings), **settings})
