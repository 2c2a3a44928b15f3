"""What users may pass as a callback, made one of ours: functions, lists, and objects of Stable-Baselines3."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from r2vpo.control.callbacks.base import BaseCallback, Callbacks
from r2vpo.control.callbacks.model import Model
from r2vpo.errors import ConfigError

EPISODES = 100
"""Training episodes in ``ep_info_buffer``, as in Stable-Baselines3."""

StepFunction = Callable[[dict[str, Any], dict[str, Any]], bool | None]
MaybeCallback = BaseCallback | Sequence[Any] | StepFunction | Any | None
"""One of ours or of Stable-Baselines3's, a function ``(locals, globals) -> bool``, several of these, or None."""


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
        return CallbackList(callback)
    if not isinstance(callback, type):
        if hasattr(callback, "init_callback") and hasattr(callback, "on_step"):
            return SB3Callback(callback)
        if callable(callback):
            return FunctionCallback(callback)
    wanted = "a function (locals, globals) -> bool, a BaseCallback of r2vpo.control or stable_baselines3"
    raise ConfigError("callback", callback, f"{wanted}, or a list of these; a class is none")


class CallbackList(Callbacks):
    """Calls several callbacks, of any kind, in order; training goes on while all of them want it to."""

    def __init__(self, callbacks: Sequence[MaybeCallback]) -> None:
        super().__init__([as_callback(callback) for callback in callbacks])


class FunctionCallback(BaseCallback):
    """Wraps a function ``(locals, globals) -> bool``; only False stops training."""

    def __init__(self, function: StepFunction) -> None:
        super().__init__()
        self.function = function

    def _on_step(self) -> bool | None:
        return self.function(self.locals, {})


class SB3Callback(BaseCallback):
    """Calls a callback of Stable-Baselines3's as that library would."""

    def __init__(self, theirs: Any) -> None:
        super().__init__()
        self.theirs = theirs

    def init_callback(self, model: Model) -> None:
        """Attach it to a view of the model with Stable-Baselines3's attributes."""
        self.view = SB3Model(model)
        self.theirs.parent = self.parent
        with warnings.catch_warnings():
            # Its environments may be wrapped otherwise than ours: the statistics are in the policy, not in a wrapper.
            warnings.filterwarnings("ignore", "Training and eval env are not of the same type")
            self.theirs.init_callback(self.view)
        super().init_callback(model)

    def on_training_start(self, locals_: dict[str, Any], globals_: dict[str, Any] | None = None) -> None:
        """Before the first rollout; ``infos`` of a step are not kept here, and empty."""
        super().on_training_start(locals_, globals_)
        infos: list[dict[str, Any]] = [{} for _ in range(self.view.n_envs)]
        self.theirs.on_training_start(locals_ | {"self": self.view, "infos": infos, "tb_log_name": "R2VPO"}, {})

    def update_locals(self, locals_: dict[str, Any]) -> None:
        """What the step brought."""
        self.theirs.update_locals(locals_)

    def _on_rollout_start(self) -> None:
        self.theirs.on_rollout_start()

    def _on_step(self) -> bool | None:
        answer: bool | None = self.theirs.on_step()
        return answer

    def _on_rollout_end(self) -> None:
        self.theirs.on_rollout_end()

    def _on_training_end(self) -> None:
        self.theirs.on_training_end()


class SB3Model:
    """A model with the attributes that Stable-Baselines3 documents for callbacks; the others are the model's own."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.env = TrainingEnvs(model)
        self.n_envs = self.env.num_envs
        self.verbose = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def get_env(self) -> TrainingEnvs:
        """What is trained on."""
        return self.env

    def get_vec_normalize_env(self) -> None:
        """None: the statistics are in the policy."""

    @property
    def ep_info_buffer(self) -> list[dict[str, float]]:
        """Return and length of the last training episodes."""
        episodes = self._model.episodes
        last = zip(episodes.returns[-EPISODES:], episodes.lengths[-EPISODES:], strict=False)
        return [{"r": episode_return, "l": length} for episode_return, length in last]

    def dump_logs(self, iteration: int = 0) -> None:
        """Write down what is recorded."""
        self._model.logger.dump(self._model.num_timesteps)


class TrainingEnvs:
    """What a callback may know of the environments that are trained on; stepping them is the trainer's."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.num_envs = model.config.num_envs
        self.observation_space, self.action_space = model.observation_space, model.action_space

    def get_attr(self, name: str, indices: int | Sequence[int] | None = None) -> list[Any]:
        """An attribute of each environment."""
        return [env.get_wrapper_attr(name) for env in self._envs(indices)]

    def set_attr(self, name: str, value: Any, indices: int | Sequence[int] | None = None) -> None:
        """Set an attribute in each environment."""
        for env in self._envs(indices):
            env.set_wrapper_attr(name, value)

    def env_method(
        self, name: str, *arguments: Any, indices: int | Sequence[int] | None = None, **named: Any
    ) -> list[Any]:
        """What a method of each environment returns."""
        return [env.get_wrapper_attr(name)(*arguments, **named) for env in self._envs(indices)]

    def _envs(self, indices: int | Sequence[int] | None) -> list[Any]:
        vector = getattr(self._model.collector, "envs", None)
        if vector is None or vector.engine != "gymnasium":
            wanted = "'gymnasium', with overlap=False: a callback reaches into the environments"
            raise ConfigError("engine", self._model.config.engine, wanted)
        chosen = range(self.num_envs) if indices is None else [indices] if isinstance(indices, int) else indices
        return [vector.envs[index] for index in chosen]
