"""R²VPO as a Stable-Baselines3 (SB3) algorithm: ``R2VPO("MlpPolicy", env)`` where ``PPO("MlpPolicy", env)`` stood.

Collection, policies, value loss, entropy bonus, callbacks and files are SB3's own; the surrogate, lambda and the
replay of past rollouts (arXiv 2601.03320, Eq. 10, Eq. 12, Algorithm 2) are the core's. With
``objective="ppo_clip"`` and no replay every gradient step is that of SB3's PPO.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from gymnasium.spaces import Box
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import FloatSchedule, explained_variance
from stable_baselines3.common.vec_env import VecEnv

from r2vpo.control.sb3.minibatch import KLLimitReached, Minibatch, MinibatchScorer, RecordedObjective, picked
from r2vpo.control.sb3.replay import Reestimator, RolloutRecorder, check_rollout, fresh_samples, joined
from r2vpo.dual import DualController, DualRule
from r2vpo.errors import CheckpointError, ConfigError, TrainingDiverged
from r2vpo.objectives import make_objective
from r2vpo.replay import ReplayBuffer
from r2vpo.runs.checkpoint import load_tree, save_tree
from r2vpo.update import PolicyUpdater
from r2vpo.validation import (
    Anchor,
    Count,
    NonNegative,
    ObjectiveKwargs,
    Positive,
    check_dual,
    check_fields,
    check_objective,
)

_ELSEWHERE = {
    ("r2vpo", "lam"): "the setting lam",
    ("onesided", "lam"): "the setting lam",
    ("ppo_clip", "eps"): "the setting clip_range",
}
_LOGGED = ("ratio_variance", "max_ratio", "ess", "sign_flip", "grad_norm", "gradient_steps", "skipped_steps")


class R2VPO(PPO):
    """SB3's PPO with another surrogate, and optionally with replay.

    Args:
        policy, env, ppo_arguments, ppo_settings: As for ``PPO``, names, order and defaults included. ``clip_range``
            belongs to ``objective="ppo_clip"``; others only have their ``clip_fraction`` measured against it.
            ``target_kl`` ends an update early as in PPO, and has to be None with replay at the behaviour anchor.
        objective: A name in :data:`r2vpo.objectives.OBJECTIVES`.
        objective_kwargs: Hyperparameters of that objective other than ``lam`` and ppo_clip's ``eps``.
        lam: First lambda, and as an attribute the current one. Larger holds the policy closer to the data.
        dual: How lambda moves after each gradient step, one of :data:`r2vpo.dual.DUAL_RULES`.
        delta: Target of E[(rho-1)^2]; None only with ``dual="fixed"``.
        eta: Dual step size; None takes the rule's own.
        buffer_iterations: Rollouts kept for replay; 1 trains on the fresh one alone, drawn as SB3 draws it.
        utd: With replay, gradient samples per new sample as a multiple of ``n_epochs``, reached as the buffer fills.
        trace_cap: With replay, cap of the importance weights inside the advantages of older rollouts.
        anchor: With replay, where the ratio is 1. ``behaviour``: at the policy that acted; ``proximal``: at the policy
            that the update starts from, and ``min(1, pi / pi_off)`` of that policy weighs each advantage.

    Raises:
        ConfigError: A setting outside its range.
    """

    objective: str
    objective_kwargs: ObjectiveKwargs
    lam: NonNegative
    dual: DualRule
    delta: Positive | None
    eta: Positive | None
    buffer_iterations: Count
    utd: Positive
    trace_cap: Positive
    anchor: Anchor
    replay_buffer: ReplayBuffer | None

    def __init__(
        self,
        policy: Any,
        env: Any,
        *ppo_arguments: Any,
        objective: str = "r2vpo",
        objective_kwargs: dict[str, Any] | None = None,
        lam: float = 1.0,
        dual: DualRule = "adaptive",
        delta: float | None = 0.1,
        eta: float | None = None,
        buffer_iterations: int = 1,
        utd: float = 2.0,
        trace_cap: float = 1.0,
        anchor: Anchor = "behaviour",
        **ppo_settings: Any,
    ) -> None:
        self.objective = objective
        self.objective_kwargs = objective_kwargs or {}
        self.lam = lam
        self.dual = dual
        self.delta = delta
        self.eta = eta
        self.buffer_iterations = buffer_iterations
        self.utd = utd
        self.trace_cap = trace_cap
        self.anchor = anchor
        self.target_kl = None
        self.replay_buffer = None
        self._check_settings()
        super().__init__(policy, env, *ppo_arguments, **ppo_settings)
        schedule = FloatSchedule(self.clip_range)
        if objective != "ppo_clip" and any(schedule(progress) != 0.2 for progress in (1.0, 0.5)):
            message = f"clip_range does not limit the steps of objective={objective!r}; only clip_fraction uses it"
            warnings.warn(message, UserWarning, stacklevel=2)

    def _setup_model(self) -> None:
        # Loading sets attributes and then comes here, so settings given to `load` are checked too.
        self._check_settings()
        super()._setup_model()
        stored = self.replay_buffer
        self.replay_buffer = ReplayBuffer(self.buffer_iterations) if self.buffer_iterations > 1 else None
        if stored is not None and self.replay_buffer is not None:
            self._refill(stored.state_dict())

    def _check_settings(self) -> None:
        # A file of an earlier version may hold None for no hyperparameters.
        self.objective_kwargs = self.objective_kwargs or {}
        check_fields(self, R2VPO)
        check_dual(self)
        for name, value in self.objective_kwargs.items():
            if (self.objective, name) in _ELSEWHERE:
                allowed = f"left out of objective_kwargs: {_ELSEWHERE[self.objective, name]} is its place"
                raise ConfigError(name, value, allowed)
        # Without an environment yet, SB3's __init__ comes back here with one.
        check_objective(self, densities=isinstance(getattr(self, "action_space", None), Box))
        if self.buffer_iterations > 1 and self.anchor == "behaviour" and self.target_kl is not None:
            allowed = "None with anchor='behaviour' and replay, whose samples are of policies several updates old"
            raise ConfigError("target_kl", self.target_kl, allowed)

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "R2VPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train, as SB3's algorithms do; lambda and the replay buffer go on from where they are."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Collect as SB3 does and, with replay, store what was collected raw.

        Raises:
            ConfigError: With replay, ``VecNormalize`` under a wrapper that changes its observations.
        """
        if self.replay_buffer is None:
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        recorder = RolloutRecorder(callback, env, self._vec_normalize_env)
        finished = super().collect_rollouts(env, recorder, rollout_buffer, n_rollout_steps)  # type: ignore[arg-type]
        if finished:
            assert self._last_obs is not None
            rollout = recorder.rollout(rollout_buffer, self._last_obs)
            self.replay_buffer.add(rollout, rollout["done"].numel())
        return finished

    def train(self) -> None:
        """Improve the policy on the rollout just collected and on those in the replay buffer.

        Raises:
            TrainingDiverged: Not one gradient step was finite.
        """
        self._update_learning_rate(self.policy.optimizer)
        progress = self._current_progress_remaining
        clip_range = self.clip_range(progress)  # type: ignore[operator]
        clip_range_vf = None if self.clip_range_vf is None else self.clip_range_vf(progress)  # type: ignore[operator]
        settings = (self.normalize_advantage, self.ent_coef, self.vf_coef, clip_range, clip_range_vf, self.target_kl)
        scorer = MinibatchScorer(self.policy, *settings)
        objective = self._objective(clip_range)
        # Objectives without lambda leave it where it is.
        rule = (self.delta, self.eta, self.dual) if objective.uses_dual else ()
        dual = DualController(self.lam, *rule)
        updater = PolicyUpdater(objective, dual, self.policy.optimizer, scorer, self.max_grad_norm)
        passes = self._passes()
        self.policy.set_training_mode(True)
        for number, minibatches in enumerate(passes):
            scorer.start_pass()
            self._n_updates += 1
            try:
                for minibatch in minibatches:
                    updater.step([minibatch], count=len(minibatch.advantages))
            except KLLimitReached:
                if self.verbose >= 1:
                    print(f"Early stopping at step {number} due to reaching max kl: {scorer.logs['approx_kl'][-1]:.2f}")
                break
        self.lam = dual.lam
        self._log(updater, scorer)

    def save_replay_buffer(self, path: str | Path) -> None:
        """Write the stored rollouts to a file of this library's own format, pickle-free, whatever its extension.

        Raises:
            ConfigError: There is no replay.
        """
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_tree(path, self._require_replay().state_dict())

    def load_replay_buffer(self, path: str | Path) -> None:
        """Replace the stored rollouts by the newest of a file that :meth:`save_replay_buffer` wrote.

        Raises:
            CheckpointError: No such file, not one of these, or of other observations or actions.
            ConfigError: There is no replay.
        """
        self._require_replay()
        self._refill(load_tree(path))

    def _refill(self, state: dict[str, Any]) -> None:
        if not {"iterations", "sizes"} <= set(state):
            raise CheckpointError("this file does not hold a replay buffer")
        refilled = ReplayBuffer(self.buffer_iterations)
        for rollout, size in zip(state["iterations"], state["sizes"], strict=True):
            check_rollout(rollout, self.rollout_buffer)
            refilled.add(rollout, size)
        self.replay_buffer = refilled

    def _require_replay(self) -> ReplayBuffer:
        if self.replay_buffer is None:
            raise ConfigError("buffer_iterations", self.buffer_iterations, "above 1 to have a replay buffer")
        return self.replay_buffer

    def _objective(self, clip_range: float) -> RecordedObjective:
        objective = make_objective(self.objective, **self.objective_kwargs)
        # A schedule may end at 0, which is no range to choose but a valid last value.
        moving = {"eps": clip_range} if self.objective == "ppo_clip" else objective.hyperparameters
        return RecordedObjective(objective.name, objective.function, moving)

    def _passes(self) -> Iterator[Iterable[Minibatch]]:
        """Minibatches, one rollout's worth of samples at a time."""
        if self.replay_buffer is None:
            return (self.rollout_buffer.get(self.batch_size) for _ in range(self.n_epochs))
        return self._replayed_passes(self.replay_buffer)

    def _replayed_passes(self, replay: ReplayBuffer) -> Iterator[Iterable[Minibatch]]:
        self.policy.set_training_mode(False)
        normalizer = self._vec_normalize_env
        estimator = Reestimator(self.policy, normalizer, self.gamma, self.gae_lambda, self.trace_cap, self.anchor)
        older = [estimator.samples(rollout) for rollout in replay.iterations[:-1]]
        samples = joined([*older, fresh_samples(self.rollout_buffer)])
        passes = max(1, round(self.n_epochs * (1.0 + (self.utd - 1.0) * replay.fill)))
        batch_size = min(self.batch_size, len(replay))
        steps = -(-replay.sizes[-1] // batch_size)
        # Torch's global generator: the one that SB3 seeds.
        order = replay.minibatches(batch_size, passes * steps, torch.default_generator)
        minibatches = (picked(samples, index, self.device) for index in order)
        return (islice(minibatches, steps) for _ in range(passes))

    def _log(self, updater: PolicyUpdater[Minibatch], scorer: MinibatchScorer) -> None:
        """Record what SB3's PPO records under the same names, and the ratio's statistics beside it."""
        losses, auxiliary = updater.objective.losses, updater.log.auxiliary_losses  # type: ignore[attr-defined]
        summary = updater.summary()
        if summary["skipped_steps"] and not summary["gradient_steps"]:
            raise TrainingDiverged(f"all {summary['skipped_steps']} gradient steps of one update were non-finite")
        values: dict[str, Any] = {name: np.nanmean(numbers) for name, numbers in scorer.logs.items()}
        if summary["gradient_steps"]:
            values["policy_gradient_loss"] = np.nanmean(losses)
            values["loss"] = losses[-1] + auxiliary[-1]
        values["explained_variance"] = explained_variance(
            self.rollout_buffer.values.flatten(), self.rollout_buffer.returns.flatten()
        )
        if hasattr(self.policy, "log_std"):
            values["std"] = self.policy.log_std.exp().mean().item()
        values["clip_range"] = scorer.clip_range
        if scorer.clip_range_vf is not None:
            values["clip_range_vf"] = scorer.clip_range_vf
        values |= {name: summary[name] for name in _LOGGED if name in summary}
        if updater.objective.uses_dual:
            values["lam"] = self.lam
        for name, value in values.items():
            self.logger.record(f"train/{name}", value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
