"""Callbacks with the names and the order of Stable-Baselines3's, so that its users find what they know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from r2vpo.errors import ConfigError

if TYPE_CHECKING:
    from r2vpo.control.config import ControlConfig
    from r2vpo.control.evaluation import EpisodeLog, EvaluationResult
    from r2vpo.control.learner import Learner
    from r2vpo.control.policy import GaussianPolicy
    from r2vpo.runs.directory import RunDirectory


class Model(Protocol):
    """What a callback sees of :class:`r2vpo.control.R2VPO`, which has more."""

    @property
    def config(self) -> ControlConfig:
        """Every setting."""

    @property
    def learner(self) -> Learner:
        """Networks, optimizer, lambda and replay buffer."""

    @property
    def policy(self) -> GaussianPolicy:
        """What acts."""

    @property
    def episodes(self) -> EpisodeLog:
        """Training episodes that have ended."""

    @property
    def run(self) -> RunDirectory | None:
        """The run directory, where there is one."""

    @property
    def metrics(self) -> dict[str, Any]:
        """Of the last iteration, as in metrics.jsonl; empty before the first."""

    @property
    def num_timesteps(self) -> int:
        """Environment steps taken, over all environments."""

    @property
    def schedule_start(self) -> int:
        """Environment steps at which the current schedule began."""

    def evaluate(self, episodes: int = 20, deterministic: bool = True) -> EvaluationResult:
        """Returns of complete episodes in fresh environments."""

    def save(self, path: str | Path) -> None:
        """Write everything to one file."""


class BaseCallback:
    """Override the underscored methods; ``self.model`` is the algorithm and ``self.num_timesteps`` its steps.

    ``_on_step`` runs after each step of all the environments. When it returns False, training stops after the update
    that the current rollout leads to, so that nothing collected is lost; None goes on. ``_on_rollout_end`` runs before
    that update; ``_on_rollout_start`` and ``_on_training_end`` find what came of it in ``self.model.metrics``.
    """

    model: Model

    def __init__(self, verbose: int = 0) -> None:
        self.verbose = verbose
        self.n_calls = 0
        self.num_timesteps = 0
        self.locals: dict[str, Any] = {}

    def init_callback(self, model: Model) -> None:
        """Attach to the algorithm."""
        self.model = model
        self._init_callback()

    def on_training_start(self, locals_: dict[str, Any]) -> None:
        """Before the first rollout."""
        self.locals = locals_
        self.num_timesteps = self.model.num_timesteps
        self._on_training_start()

    def on_rollout_start(self) -> None:
        """Before each rollout."""
        self._on_rollout_start()

    def on_step(self) -> bool:
        """After each step of all the environments."""
        self.n_calls += 1
        self.num_timesteps = self.model.num_timesteps
        wanted = self._on_step()
        return True if wanted is None else bool(wanted)  # a method without a return means to go on

    def on_rollout_end(self) -> None:
        """After each rollout, before its update."""
        self._on_rollout_end()

    def on_training_end(self) -> None:
        """After the last update."""
        self._on_training_end()

    def _init_callback(self) -> None: ...

    def _on_training_start(self) -> None: ...

    def _on_rollout_start(self) -> None: ...

    def _on_step(self) -> bool | None:
        return True

    def _on_rollout_end(self) -> None: ...

    def _on_training_end(self) -> None: ...


StepFunction = Callable[[dict[str, Any], dict[str, Any]], bool | None]
MaybeCallback = BaseCallback | Sequence["BaseCallback | StepFunction"] | StepFunction | None


class CallbackList(BaseCallback):
    """Calls several callbacks in order; training goes on while all of them want it to."""

    def __init__(self, callbacks: Sequence[BaseCallback]) -> None:
        super().__init__()
        self.callbacks = list(callbacks)

    def init_callback(self, model: Model) -> None:
        """Attach all of them."""
        super().init_callback(model)
        for callback in self.callbacks:
            callback.init_callback(model)

    def on_training_start(self, locals_: dict[str, Any]) -> None:
        """Start all of them."""
        super().on_training_start(locals_)
        for callback in self.callbacks:
            callback.on_training_start(locals_)

    def _on_rollout_start(self) -> None:
        for callback in self.callbacks:
            callback.on_rollout_start()

    def _on_step(self) -> bool:
        wanted = [callback.on_step() for callback in self.callbacks]
        return all(wanted)

    def _on_rollout_end(self) -> None:
        for callback in self.callbacks:
            callback.on_rollout_end()

    def _on_training_end(self) -> None:
        for callback in self.callbacks:
            callback.on_training_end()


class FunctionCallback(BaseCallback):
    """Wraps a function ``(locals, globals) -> bool``; only False stops training."""

    def __init__(self, function: Callable[[dict[str, Any], dict[str, Any]], bool | None]) -> None:
        super().__init__()
        self.function = function

    def _on_step(self) -> bool | None:
        return self.function(self.locals, {})


class EvalCallback(BaseCallback):
    """Evaluates every ``eval_freq`` environment steps, between iterations and at the end; keeps the best model.

    Args:
        eval_freq: Environment steps between evaluations.
        n_eval_episodes: Episodes of each.
        deterministic: Whether to act by the mean.
        best_model_save_path: Folder for ``best_model.zip``; None keeps none.
    """

    def __init__(
        self,
        eval_freq: int = 10_000,
        n_eval_episodes: int = 5,
        deterministic: bool = True,
        best_model_save_path: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.eval_freq, self.n_eval_episodes, self.deterministic = eval_freq, n_eval_episodes, deterministic
        self.best_model_save_path = None if best_model_save_path is None else Path(best_model_save_path)
        self.best_mean_reward = -float("inf")
        self.evaluations: list[tuple[int, float]] = []
        """(environment steps, mean return) of each evaluation so far."""
        self._last = 0

    def _on_training_start(self) -> None:
        self._last = self.model.num_timesteps

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps - self._last >= self.eval_freq:
            self._evaluate()

    def _on_training_end(self) -> None:
        if self.model.num_timesteps > self._last:
            self._evaluate()

    def _evaluate(self) -> None:
        self._last = self.model.num_timesteps
        result = self.model.evaluate(self.n_eval_episodes, deterministic=self.deterministic)
        self.evaluations.append((self._last, result.mean))
        if result.mean > self.best_mean_reward:
            self.best_mean_reward = result.mean
            if self.best_model_save_path is not None:
                self.best_model_save_path.mkdir(parents=True, exist_ok=True)
                self.model.save(self.best_model_save_path / "best_model.zip")


class StopTrainingOnMaxEpisodes(BaseCallback):
    """Stops once ``max_episodes`` training episodes have ended."""

    def __init__(self, max_episodes: int) -> None:
        super().__init__()
        self.max_episodes = max_episodes

    def _on_step(self) -> bool:
        return len(self.model.episodes.returns) < self.max_episodes


def as_callback(callback: MaybeCallback) -> BaseCallback:
    """What users may pass to ``learn``, as one callback.

    Raises:
        ConfigError: Something else.
    """
    if callback is None:
        return BaseCallback()
    if isinstance(callback, BaseCallback):
        return callback
    if isinstance(callback, Sequence) and not isinstance(callback, str):
        return CallbackList([as_callback(item) for item in callback])
    if callable(callback) and not isinstance(callback, type) and not hasattr(callback, "init_callback"):
        return FunctionCallback(callback)
    wanted = "a function (locals, globals) -> bool, a BaseCallback of r2vpo.control, or a list of these"
    if hasattr(callback, "init_callback"):
        wanted += (
            "; a class, or one of another library, is none. EvalCallback, StopTrainingOnMaxEpisodes and CallbackList "
            "are in r2vpo.control.callbacks too, and a run_dir keeps checkpoints and TensorBoard events by itself"
        )
    raise ConfigError("callback", callback, wanted)
