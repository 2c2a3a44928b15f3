"""The class that callbacks are made from, and when its methods are called."""

from __future__ import annotations

from typing import Any

from r2vpo.control.callbacks.model import Model
from r2vpo.runs.logger import Logger


class BaseCallback:
    """Override the underscored methods; ``self.model`` is the algorithm and ``self.num_timesteps`` its steps.

    ``_on_step`` runs after each step of all the environments. When it returns False, training stops after the update
    that the current rollout leads to, so that nothing collected is lost; None goes on. ``_on_rollout_end`` runs before
    that update, and ``_on_update_end`` after it: ``self.metrics`` has what came of it, what ``self.logger`` is given
    goes wherever these metrics go, and False stops training there.
    """

    model: Model

    def __init__(self, verbose: int = 0) -> None:
        self.verbose = verbose
        self.n_calls = 0
        self.num_timesteps = 0
        self.locals: dict[str, Any] = {}
        """``self``, ``total_timesteps``, and of the last step ``rewards`` and ``dones``, ``[N]``."""
        self.globals: dict[str, Any] = {}
        self.parent: Any = None
        """The callback that calls this one, where there is one."""

    @property
    def logger(self) -> Logger:
        """Of the algorithm; ``self.logger.record("mine/height", 1.5)``."""
        return self.model.logger

    @property
    def metrics(self) -> dict[str, Any]:
        """Of the last iteration, as in metrics.jsonl, and what callbacks have recorded since."""
        return {**self.model.metrics, **self.logger.pending()}

    def init_callback(self, model: Model) -> None:
        """Attach to the algorithm."""
        self.model = model
        self._init_callback()

    def on_training_start(self, locals_: dict[str, Any], globals_: dict[str, Any] | None = None) -> None:
        """Before the first rollout."""
        self.locals, self.globals = locals_, globals_ or {}
        self.num_timesteps = self.model.num_timesteps
        self._on_training_start()

    def update_locals(self, locals_: dict[str, Any]) -> None:
        """Before each :meth:`on_step`: what the step brought."""
        self.locals.update(locals_)

    def on_rollout_start(self) -> None:
        """Before each rollout."""
        self._on_rollout_start()

    def on_step(self) -> bool:
        """After each step of all the environments."""
        self.n_calls += 1
        self.num_timesteps = self.model.num_timesteps
        return wants_more(self._on_step())

    def on_rollout_end(self) -> None:
        """After each rollout, before its update."""
        self._on_rollout_end()

    def on_update_end(self) -> bool:
        """After each update."""
        self.num_timesteps = self.model.num_timesteps
        return wants_more(self._on_update_end())

    def on_training_end(self) -> None:
        """After the last update."""
        self._on_training_end()

    def _init_callback(self) -> None: ...

    def _on_training_start(self) -> None: ...

    def _on_rollout_start(self) -> None: ...

    def _on_step(self) -> bool | None:
        return True

    def _on_rollout_end(self) -> None: ...

    def _on_update_end(self) -> bool | None:
        return True

    def _on_training_end(self) -> None: ...


def wants_more(answer: bool | None) -> bool:
    """Whether training goes on: a method without a return means that it does."""
    return True if answer is None else bool(answer)


class Callbacks(BaseCallback):
    """Calls several callbacks in order; training goes on while all of them want it to."""

    def __init__(self, callbacks: list[BaseCallback]) -> None:
        super().__init__()
        self.callbacks = callbacks

    def init_callback(self, model: Model) -> None:
        """Attach all of them."""
        super().init_callback(model)
        for callback in self.callbacks:
            callback.parent = self._parent_of_callbacks()
            callback.init_callback(model)

    def on_training_start(self, locals_: dict[str, Any], globals_: dict[str, Any] | None = None) -> None:
        """Start all of them."""
        super().on_training_start(locals_, globals_)
        for callback in self.callbacks:
            callback.on_training_start(locals_, globals_)

    def update_locals(self, locals_: dict[str, Any]) -> None:
        """Tell all of them."""
        for callback in self.callbacks:
            callback.update_locals(locals_)

    def _parent_of_callbacks(self) -> Any:
        return self.parent

    def _on_rollout_start(self) -> None:
        for callback in self.callbacks:
            callback.on_rollout_start()

    def _on_step(self) -> bool:
        wanted = [callback.on_step() for callback in self.callbacks]  # of all, whatever the first says
        return all(wanted)

    def _on_rollout_end(self) -> None:
        for callback in self.callbacks:
            callback.on_rollout_end()

    def _on_update_end(self) -> bool:
        wanted = [callback.on_update_end() for callback in self.callbacks]
        return all(wanted)

    def _on_training_end(self) -> None:
        for callback in self.callbacks:
            callback.on_training_end()
