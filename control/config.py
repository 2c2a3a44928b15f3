"""Every setting of the control trainer, validated before any work starts. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from r2vpo.dual import joint_delta
from r2vpo.errors import ConfigError
from r2vpo.validation import boolean, choice, lam_can_move, real, whole

Algo = Literal["on-policy", "off-policy"]
ObjectiveName = Literal["r2vpo", "ppo_clip", "clip_higher", "gppo", "topr", "spo", "cispo", "gspo", "none"]
DualRule = Literal["fixed", "paper", "adaptive"]
Preset = Literal["default", "fast"]

HYPERPARAMETERS = ("eps", "eps_low", "eps_high", "cap", "level")
"""Settings that belong to one objective or another; None leaves the objective's own default."""


@dataclass(frozen=True)
class ControlConfig:
    """Settings of one run. A preset fills them in; anything given explicitly wins."""

    env: str = "HalfCheetah-v5"
    """Gymnasium id of the environment."""
    algo: Algo = "off-policy"
    """on-policy discards each rollout after its update (Algorithm 1); off-policy replays the last few (Algorithm 2)."""
    objective: ObjectiveName = "r2vpo"
    """Surrogate objective; ppo_clip makes this trainer PPO."""
    total_steps: int = 1_000_000
    """Environment steps to train for, rounded up to whole rollouts."""
    seed: int = 0
    """Seed of everything random. Same seed, same run, bit for bit on one machine."""

    preset: Preset = "default"
    """Fills in what is not given. default: most return per sample; fast: 32 environments, overlapped, fewer updates."""

    dual: DualRule = "adaptive"
    """How lambda moves: fixed, the paper's gradient step, or a relative step that finds delta in a few rollouts."""
    lam: float = 1.0
    """First lambda. Larger holds the policy closer to the data."""
    delta: float | None = None
    """Target of E[(rho-1)^2]; larger allows larger policy steps. None takes it from delta_per_dimension."""
    delta_per_dimension: float = 0.01
    """Target of E[(rho-1)^2] of each action dimension alone; for d of them delta is (1 + this)^d - 1."""
    reward_floor: float = 0.5
    """Advantages whose rewards alone vary less than this times as much as they do get less than delta, by the square of
    what is missing: before the first reward a tenth. 0 always grants all of delta."""
    delta_decay: float = 0.0
    """Last part of the run, in [0, 1], over which delta falls linearly to a tenth. While it stands still, a falling
    learning rate only lets lambda fall as well, and the last policies differ as much as all others."""
    eta: float | None = None
    """Dual step size; None takes the rule's own."""
    eps: float | None = None
    """Clip range of ppo_clip, penalty width of spo."""
    eps_low: float | None = None
    """Lower clip range of clip_higher, gppo and gspo."""
    eps_high: float | None = None
    """Upper clip range of clip_higher, gppo and gspo."""
    cap: float | None = None
    """Largest ratio weight of cispo."""
    level: Literal["token", "sequence"] | None = None
    """Ratio of topr; an action is a sequence of length one, so both mean the same here."""

    buffer_iterations: int = 4
    """Iterations kept for replay when off-policy."""
    utd: float = 2.0
    """Update-to-data ratio when off-policy: gradient samples per new sample, as a multiple of the epochs."""
    replay_advantages: Literal["recomputed", "stored"] = "recomputed"
    """recomputed: values, GAE and truncated importance weights anew each iteration; stored: the paper's literal way."""
    trace_cap: float = 1.0
    """Cap of the importance weights inside recomputed advantages; larger lets traces amplify."""

    num_envs: int = 16
    """Environments stepped side by side."""
    rollout_steps: int = 128
    """Steps of each environment per iteration."""
    stagger: bool = True
    """Cut the first episode of each environment at another length; else episodes that all last as long as the time
    limit are at the same point in every environment, and a rollout sees one part of them."""
    minibatch_size: int = 256
    """Samples per gradient step; smaller means more steps per rollout."""
    epochs: int = 10
    """Passes over one rollout's worth of samples per iteration."""
    learning_rate: float = 1e-3
    """First Adam learning rate."""
    lr_schedule: Literal["linear", "constant"] = "linear"
    """linear decays the learning rate to 0 at total_steps."""
    gamma: float = 0.99
    """Discount factor."""
    gae_lambda: float = 0.95
    """Trace decay of the advantage estimate; larger trades bias for variance."""
    value_coef: float = 0.5
    """Weight of the squared value error in the loss."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus; larger explores longer."""
    max_grad_norm: float = 0.5
    """Joint gradient norm above which gradients are scaled down."""
    normalize_advantages: bool = True
    """Standardise advantages. Lambda is not scale-free in the advantage."""
    advantage_scope: Literal["minibatch", "update"] = "minibatch"
    """What advantages are standardised over: each minibatch, as PPO's implementations do, or all the data of an
    update. Within a minibatch nothing that all advantages have in common pushes the standard deviation about."""

    hidden_sizes: tuple[int, ...] = (64, 64)
    """Width of each hidden tanh layer, in the actor and in the critic."""
    log_std_init: float = 0.0
    """First logarithm of the action standard deviation."""
    log_std_min: float = -5.0
    """Lower bound of the log standard deviation; higher keeps more exploration."""
    log_std_max: float = 1.0
    """Upper bound of the log standard deviation."""
    action_bounds: Literal["rescale", "clip", "tanh"] = "rescale"
    """How samples meet bounded action spaces; the sample before it is what is scored. rescale: -1 and 1 are the
    bounds, and what lies beyond is cut; clip: samples are in the units of the actions; tanh: squashed."""
    normalize_observations: bool = True
    """Standardise observations by running statistics, frozen from collection to the end of the update."""
    normalize_rewards: bool = True
    """Divide rewards by the running standard deviation of the discounted return."""

    engine: Literal["auto", "native", "gymnasium", "envpool"] = "auto"
    """What steps the environments: the native engine where it covers the task, else Gymnasium, with the same results.
    envpool (where installed) brings a MuJoCo version of its own and cannot save its environments."""
    env_threads: int = 0
    """Threads of the native engine; 0 takes one for every four environments, within the cores there are."""
    gradient_step: Literal["auto", "eager", "compiled"] = "auto"
    """compiled: forward, backward, clipping, Adam and statistics as one function, compiled once per machine and kept;
    eager: PyTorch call by call; auto: compiled where the run is long enough to pay for it."""
    overlap: bool = False
    """Collect the next rollout while the learner works on the last: faster, and every rollout one update older."""
    torch_threads: int = 1
    """Threads of torch; one is fastest for networks this small. 0 leaves torch's own choice."""
    checkpoint_seconds: float = 30.0
    """Longest time between checkpoints of a run with a run directory."""
    eval_episodes: int = 20
    """Episodes of the evaluation that closes a run with a run directory; 0 leaves it out."""

    def __post_init__(self) -> None:
        """Check every field; raises ConfigError."""
        for check in _CHECKS:
            check(self)

    @property
    def rollout_size(self) -> int:
        """Environment steps per iteration."""
        return self.num_envs * self.rollout_steps

    @property
    def stored_iterations(self) -> int:
        """Iterations in the buffer; 1 when on-policy."""
        return self.buffer_iterations if self.algo == "off-policy" else 1

    @property
    def gradient_steps(self) -> int:
        """Gradient steps per iteration once the buffer is full."""
        utd = self.utd if self.algo == "off-policy" else 1.0
        return max(1, round(utd * self.epochs * self.rollout_size / self.minibatch_size))

    def delta_for(self, action_size: int) -> float:
        """Target of E[(rho-1)^2] for actions of this many dimensions: delta where it was given."""
        return joint_delta(self.delta_per_dimension, action_size) if self.delta is None else self.delta

    @property
    def reward_floor_in_use(self) -> float:
        """0 where advantages are not standardised, so that their size counts by itself."""
        return self.reward_floor if self.normalize_advantages else 0.0

    @property
    def objective_hyperparameters(self) -> dict[str, Any]:
        """Settings of the objective that were given."""
        return {name: getattr(self, name) for name in HYPERPARAMETERS if getattr(self, name) is not None}


def _minibatch_fits(config: ControlConfig) -> None:
    if config.minibatch_size > config.rollout_size:
        size = f"num_envs * rollout_steps = {config.num_envs} * {config.rollout_steps} = {config.rollout_size}"
        raise ConfigError("minibatch_size", config.minibatch_size, f"at most {size}")


def _log_std_bounds(config: ControlConfig) -> None:
    if not config.log_std_min < config.log_std_max:
        raise ConfigError("log_std_min", config.log_std_min, f"below log_std_max={config.log_std_max}")
    if not config.log_std_min <= config.log_std_init <= config.log_std_max:
        bounds = f"between log_std_min={config.log_std_min} and log_std_max={config.log_std_max}"
        raise ConfigError("log_std_init", config.log_std_init, bounds)


def _hidden_sizes(config: ControlConfig) -> None:
    if not config.hidden_sizes or any(not isinstance(h, int) or h < 1 for h in config.hidden_sizes):
        raise ConfigError("hidden_sizes", config.hidden_sizes, "a non-empty sequence of whole numbers above 0")


_CHECKS = (
    choice("algo", "on-policy", "off-policy"),
    choice("objective", "r2vpo", "ppo_clip", "clip_higher", "gppo", "topr", "spo", "cispo", "gspo", "none"),
    choice("dual", "fixed", "paper", "adaptive"),
    choice("advantage_scope", "minibatch", "update"),
    choice("replay_advantages", "recomputed", "stored"),
    choice("lr_schedule", "linear", "constant"),
    choice("action_bounds", "rescale", "clip", "tanh"),
    choice("preset", "default", "fast"),
    choice("engine", "auto", "native", "gymnasium", "envpool"),
    choice("gradient_step", "auto", "eager", "compiled"),
    boolean("overlap"),
    boolean("stagger"),
    whole("env_threads", 0),
    choice("level", None, "token", "sequence"),
    *(whole(n, 1) for n in ("total_steps", "buffer_iterations", "num_envs", "rollout_steps", "epochs")),
    whole("minibatch_size", 2),
    whole("seed", 0),
    whole("torch_threads", 0),
    whole("eval_episodes", 0),
    real("lam", 0.0),
    *(real(n, 0.0, open_low=True, optional=True) for n in ("delta", "eta", "eps", "eps_low", "eps_high", "cap")),
    real("reward_floor", 0.0),
    real("delta_per_dimension", 0.0, open_low=True),
    *(real(n, 0.0, open_low=True) for n in ("utd", "trace_cap", "learning_rate", "max_grad_norm")),
    *(real(n, 0.0, 1.0) for n in ("gamma", "gae_lambda", "delta_decay")),
    *(real(n, 0.0) for n in ("value_coef", "entropy_coef", "checkpoint_seconds")),
    *(real(n, -20.0, 20.0) for n in ("log_std_init", "log_std_min", "log_std_max")),
    _minibatch_fits,
    lam_can_move,
    _log_std_bounds,
    _hidden_sizes,
)
