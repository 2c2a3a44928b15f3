"""Every setting of the control trainer, validated before any work starts. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Interval, MinLen

from r2vpo.dual import DualRule, joint_delta
from r2vpo.errors import ConfigError
from r2vpo.validation import (
    Anchor,
    Count,
    Fraction,
    NonNegative,
    ObjectiveKwargs,
    Positive,
    Seed,
    Track,
    Whole,
    check_dual,
    check_fields,
    check_objective,
)

Algo = Literal["on-policy", "off-policy"]
Preset = Literal["default", "fast"]
EnvKwargs = dict[str, bool | int | float | str]
LogStd = Annotated[float, Interval(ge=-20, le=20)]


def _called(name: str, more: str = "") -> str:
    return f"it is called {name} here{more}"


_ELSEWHERE = {
    "n_steps": _called("rollout_steps", ", steps of each environment"),
    "batch_size": _called("minibatch_size"),
    "n_epochs": _called("epochs"),
    "n_envs": _called("num_envs"),
    "ent_coef": _called("entropy_coef"),
    "vf_coef": _called("value_coef"),
    "target_kl": _called("delta", ": the target of the ratio variance, about twice the KL divergence"),
    "kl_coef": _called("lam", "; it moves by itself unless dual='fixed'"),
    "normalize_advantage": _called("normalize_advantages"),
    "norm_obs": _called("normalize_observations"),
    "norm_reward": _called("normalize_rewards"),
    "total_timesteps": _called("total_steps", ", or is given to learn()"),
    "env_id": _called("env"),
    "lr": _called("learning_rate"),
    "discount": _called("gamma"),
    "lam_gae": _called("gae_lambda"),
    "net_arch": _called("hidden_sizes", "; actor and critic have the same"),
    "log_std": _called("log_std_init"),
    "buffer_size": _called("buffer_iterations", ", counted in iterations"),
    "gradient_steps": _called("utd", ", relative to the epochs"),
    "train_freq": _called("rollout_steps", ", steps of each environment"),
    "clip_range": "R²VPO does not clip; objective='ppo_clip' does, with objective_kwargs={'eps': ...}",
    "clip_range_vf": "the value function is not clipped here",
    "verbose": "learn(progress_bar=True) shows the live line, --quiet hides it",
    "tensorboard_log": "run_dir gets the events for TensorBoard, with everything else of the run",
    "policy_kwargs": "hidden_sizes, log_std_init, log_std_min and log_std_max set the network",
    "policy": "the policy is always a Gaussian one; hidden_sizes sets its layers",
    "use_sde": "there is no state-dependent exploration; the noise is Gaussian",
    "sde_sample_freq": "there is no state-dependent exploration; the noise is Gaussian",
    "device": "networks this small are fastest on the CPU, where they always are",
    "stats_window_size": "returns are the mean over the last 20 episodes",
    "learning_starts": "learning starts with the first rollout",
    "tau": "there are no target networks",
}


@dataclass(frozen=True)
class ControlConfig:
    """Settings of one run; the defaults are those of R²VPO off-policy. A preset changes some, what is given wins."""

    MAIN: ClassVar[tuple[str, ...]] = (
        *("env", "algo", "objective", "total_steps", "seed", "preset", "dual", "lam", "delta"),
        *("buffer_iterations", "utd", "num_envs", "learning_rate"),
    )
    """Settings that ``--help`` shows; ``--help-advanced`` shows all."""
    ELSEWHERE: ClassVar[dict[str, str]] = _ELSEWHERE
    """What the names that Stable-Baselines3 and others give to settings are here."""

    env: str = "HalfCheetah-v5"
    """Gymnasium id of the environment; module:Id imports the module first, from the current folder say."""
    env_kwargs: EnvKwargs = field(default_factory=dict)
    """Arguments of the environment, such as {"ctrl_cost_weight": 0.0}; Gymnasium then steps it."""
    algo: Algo = "off-policy"
    """on-policy discards each rollout after its update (Algorithm 1); off-policy replays the last few (Algorithm 2)."""
    objective: str = "r2vpo"
    """Surrogate objective; ppo_clip makes this trainer PPO."""
    total_steps: Count = 1_000_000
    """Environment steps to train for, rounded up to whole rollouts."""
    seed: Seed = 0
    """Seed of everything random. Same seed, same run, bit for bit on one machine."""

    preset: Preset = "default"
    """Fills in what is not given. default: most return per sample; fast: 32 environments, overlapped, fewer updates."""

    dual: DualRule = "adaptive"
    """How lambda moves: fixed, the paper's gradient step, or a relative step that finds delta in a few rollouts."""
    lam: NonNegative = 1.0
    """First lambda. Larger holds the policy closer to the data."""
    delta: Positive | None = None
    """Target of E[(rho-1)^2]; larger allows larger policy steps. None takes it from delta_per_dimension."""
    delta_per_dimension: Positive = 0.005
    """Target of E[(rho-1)^2] of each action dimension alone; for d of them delta is (1 + this)^d - 1."""
    reward_floor: NonNegative = 0.5
    """Advantages whose rewards alone vary less than this times as much as they do get less than delta, by the square of
    what is missing: before the first reward a tenth. 0 always grants all of delta."""
    delta_decay: Fraction = 0.0
    """Last part of the run, in [0, 1], over which delta falls linearly to a tenth. While it stands still, a falling
    learning rate only lets lambda fall as well, and the last policies differ as much as all others."""
    eta: Positive | None = None
    """Dual step size; None takes the rule's own."""
    objective_kwargs: ObjectiveKwargs = field(default_factory=dict)
    """Hyperparameters of the objective, such as {"eps": 0.1} for ppo_clip; what is left out keeps its own default."""

    buffer_iterations: Count = 2
    """Iterations kept for replay when off-policy."""
    utd: Positive = 1.0
    """Update-to-data ratio when off-policy: gradient samples per new sample, as a multiple of the epochs."""
    replay_advantages: Literal["recomputed", "stored"] = "recomputed"
    """recomputed: values, GAE and truncated importance weights anew each iteration; stored: the paper's literal way."""
    trace_cap: Positive = 1.0
    """Cap of the importance weights inside recomputed advantages; larger lets traces amplify."""
    anchor: Anchor = "proximal"
    """Where the ratio is 1. behaviour: at the policy that acted, the paper's literal form; proximal: at the policy that
    the update starts from, and the surrogate weighs samples by how likely that policy is to act so (decoupled)."""
    estimates: Count = 10
    """How often an update estimates values, GAE and targets, before so many equal parts of its gradient steps; with
    replay_advantages="stored" they stay as they are."""

    num_envs: Count = 64
    """Environments stepped side by side."""
    rollout_steps: Count = 32
    """Steps of each environment per iteration."""
    stagger: bool = True
    """Cut the first episode of each environment at another length; else episodes that all last as long as the time
    limit are at the same point in every environment, and a rollout sees one part of them."""
    minibatch_size: Annotated[int, Ge(2)] = 64
    """Samples per gradient step; smaller means more steps per rollout."""
    epochs: Count = 10
    """Passes over one rollout's worth of samples per iteration."""
    learning_rate: Positive = 3e-4
    """First Adam learning rate."""
    lr_schedule: Literal["linear", "constant"] = "constant"
    """linear decays the learning rate to 0 at total_steps."""
    gamma: Fraction = 0.99
    """Discount factor."""
    gae_lambda: Fraction = 0.95
    """Trace decay of the advantage estimate; larger trades bias for variance."""
    value_coef: NonNegative = 0.5
    """Weight of the squared value error in the loss."""
    entropy_coef: NonNegative = 0.0
    """Weight of the entropy bonus; larger explores longer."""
    max_grad_norm: Positive = 0.5
    """Norm above which the gradient of the actor, and that of the critic, is scaled down."""
    normalize_advantages: bool = True
    """Standardise advantages. Lambda is not scale-free in the advantage."""
    advantage_scope: Literal["minibatch", "update"] = "minibatch"
    """What advantages are standardised over: each minibatch, as PPO's implementations do, or all the data of an
    update. Within a minibatch nothing that all advantages have in common pushes the standard deviation about."""

    hidden_sizes: Annotated[tuple[Count, ...], MinLen(1)] = (64, 64)
    """Width of each hidden tanh layer, in the actor and in the critic."""
    log_std_init: LogStd = -0.5
    """First logarithm of the action standard deviation."""
    log_std_min: LogStd = -5.0
    """Lower bound of the log standard deviation; higher keeps more exploration."""
    log_std_max: LogStd = 1.0
    """Upper bound of the log standard deviation."""
    action_bounds: Literal["rescale", "clip", "tanh"] = "rescale"
    """How samples meet bounded action spaces; the sample before it is what is scored. rescale: -1 and 1 are the
    bounds, and what lies beyond is cut; clip: samples are in the units of the actions; tanh: squashed."""
    normalize_observations: bool = True
    """Standardise observations by running statistics, frozen from collection to the end of the update."""
    normalize_rewards: bool = True
    """Divide rewards by the running standard deviation of the discounted return."""

    engine: Literal["auto", "native", "gymnasium"] = "auto"
    """What steps the environments: the native engine where it covers the task, else Gymnasium; the results are
    the same."""
    env_threads: Whole = 0
    """Threads of the native engine; 0 takes one for every four environments, within the cores there are."""
    gradient_step: Literal["auto", "eager", "compiled"] = "auto"
    """compiled: forward, backward, clipping, Adam and statistics as one function, compiled once per machine and kept;
    eager: PyTorch call by call; auto: compiled where the run is long enough to pay for it."""
    overlap: bool = False
    """Collect the next rollout while the learner works on the last: faster, and every rollout one update older."""
    torch_threads: Whole = 1
    """Threads of torch; one is fastest for networks this small. 0 leaves torch's own choice."""
    checkpoint_seconds: NonNegative = 30.0
    """Longest time between checkpoints of a run with a run directory."""
    eval_episodes: Whole = 20
    """Episodes of the evaluation that closes a run with a run directory; 0 leaves it out."""
    eval_every: Whole = 0
    """Environment steps between evaluations while training, ten episodes by the mean action and ten sampled, which
    go into the metrics and the picture; a run directory keeps the best model. 0 leaves them out."""
    eval_max_episode_steps: Count | None = None
    """Steps at which evaluations cut an episode that has not ended. None takes the environment's own time limit, and
    2000 where it has none."""
    track: Track = ()
    """Where the run is tracked besides its directory; each is a package of its own, set up by its own variables."""

    def __post_init__(self) -> None:
        """Check every field; raises ConfigError."""
        check_fields(self, ControlConfig)
        check_objective(self, densities=True)
        check_dual(self, delta_is_given=False)
        _check_minibatch(self)
        _check_log_std(self)

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


def _check_minibatch(config: ControlConfig) -> None:
    if config.minibatch_size > config.rollout_size:
        size = f"num_envs * rollout_steps = {config.num_envs} * {config.rollout_steps} = {config.rollout_size}"
        raise ConfigError("minibatch_size", config.minibatch_size, f"at most {size}")


def _check_log_std(config: ControlConfig) -> None:
    if not config.log_std_min < config.log_std_max:
        raise ConfigError("log_std_min", config.log_std_min, f"below log_std_max={config.log_std_max}")
    if not config.log_std_min <= config.log_std_init <= config.log_std_max:
        bounds = f"between log_std_min={config.log_std_min} and log_std_max={config.log_std_max}"
        raise ConfigError("log_std_init", config.log_std_init, bounds)
