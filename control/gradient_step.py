"""Whether a run's gradient steps are compiled, decided by its length alone so that a seed keeps its meaning."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from r2vpo.compilation import CompilationError, obstacle
from r2vpo.control.config import ControlConfig
from r2vpo.control.learner import Learner
from r2vpo.errors import ConfigError

PAYS_AFTER = 15_000
"""Gradient steps. Compiling takes 12 to 25 s on two cores, once, and saves 0.7 ms or more a step of every run."""


@dataclass(frozen=True)
class GradientStep:
    """How gradient steps are taken, why, and what it took to prepare them."""

    kind: str
    """``compiled`` or ``eager``."""
    reason: str
    seconds: float = 0.0


def prepare_gradient_step(
    learner: Learner, config: ControlConfig, announce: Callable[[str], None] = lambda text: None
) -> GradientStep:
    """Make the learner take the kind of steps that the config asks for.

    Args:
        learner: Compiles for its own minibatches.
        config: ``gradient_step`` and the length of the run count.
        announce: Told before a compilation that takes long.

    Raises:
        ConfigError: ``compiled`` was asked for and cannot be had.
    """
    updater = learner.updater
    updater.use_eager_step()
    if config.gradient_step == "eager":
        return GradientStep("eager", "it was asked for")
    steps = total_gradient_steps(config)
    if config.gradient_step == "auto" and steps < PAYS_AFTER:
        return GradientStep("eager", f"{steps:,} steps do not pay for compiling; {PAYS_AFTER:,} do")
    problem = obstacle()
    if problem is None:
        started = time.perf_counter()
        function = updater.trace(learner.example_minibatch())
        new = not function.is_cached
        if new:
            announce("compiling the gradient step: 10 to 30 s, once for these settings on this machine")
        try:
            updater.use_compiled_step(function)
            seconds = time.perf_counter() - started
            if new:
                announce(f"compiled in {seconds:.0f} s")
            reason = "it was asked for" if config.gradient_step == "compiled" else f"{steps:,} steps pay for it"
            return GradientStep("compiled", reason, seconds)
        except CompilationError as error:
            problem = str(error)
    if config.gradient_step == "compiled":
        raise ConfigError("gradient_step", "compiled", f"'eager' or 'auto' here: {problem}")
    announce(f"the gradient step is not compiled: {problem}")
    return GradientStep("eager", problem)


def total_gradient_steps(config: ControlConfig) -> int:
    """Of the whole run, with a buffer that is full from the start."""
    return -(-config.total_steps // config.rollout_size) * config.gradient_steps
