"""Callbacks that most runs want: evaluate, keep checkpoints, and stop when it is good or gets no better."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import gymnasium as gym

from r2vpo.control.callbacks.adapting import MaybeCallback, as_callback
from r2vpo.control.callbacks.base import BaseCallback, Callbacks
from r2vpo.control.evaluation import EVALUATION_SEED, EvaluationResult, evaluate_policy
from r2vpo.envs.making import EnvSource
from r2vpo.validation import Count, checked

Metric = Literal["return", "eval_return_mean"]
"""Of training episodes, or of evaluations: of :class:`EvalCallback` or of the setting ``eval_every``."""


class EvalCallback(Callbacks):
    """Evaluates every ``eval_freq`` environment steps, between iterations and at the end; keeps the best model.

    Mean return and length go into metrics, picture and logger, as those of the setting ``eval_every`` do.

    Args:
        eval_freq: Environment steps between evaluations.
        n_eval_episodes: Episodes of each.
        deterministic: Whether to act by the mean.
        best_model_save_path: Folder for ``best_model.zip``; None keeps none.
        eval_env: What to evaluate on, where it is not what is trained on.
        callback_after_eval: Its ``_on_step`` is called after each evaluation; False stops training.
        callback_on_new_best: Likewise after each that was the best so far.
    """

    def __init__(
        self,
        eval_freq: int = 10_000,
        n_eval_episodes: int = 5,
        deterministic: bool = True,
        best_model_save_path: str | Path | None = None,
        *,
        eval_env: EnvSource | gym.Env | None = None,
        callback_after_eval: MaybeCallback = None,
        callback_on_new_best: MaybeCallback = None,
    ) -> None:
        self.after_eval, self.on_new_best = as_callback(callback_after_eval), as_callback(callback_on_new_best)
        super().__init__([self.after_eval, self.on_new_best])
        self.eval_freq = checked("eval_freq", eval_freq, Count)
        self.n_eval_episodes = checked("n_eval_episodes", n_eval_episodes, Count)
        self.deterministic, self.eval_env = deterministic, eval_env
        self.best_model_save_path = None if best_model_save_path is None else Path(best_model_save_path)
        self.best_mean_reward = self.last_mean_reward = -float("inf")
        self.evaluations: list[tuple[int, float]] = []
        """(environment steps, mean return) of each evaluation so far."""
        self._last = 0

    def _parent_of_callbacks(self) -> EvalCallback:
        return self

    def _on_training_start(self) -> None:
        self._last = self.model.num_timesteps

    def _on_step(self) -> bool:
        return True  # their steps are evaluations

    def _on_update_end(self) -> bool:
        due = self.model.num_timesteps - self._last >= self.eval_freq
        return self._evaluate() if due else True

    def _on_training_end(self) -> None:
        if self.model.num_timesteps > self._last:
            self._evaluate()
            self.logger.dump(self.model.num_timesteps)
        super()._on_training_end()

    def _evaluate(self) -> bool:
        self._last = self.model.num_timesteps
        result = self._result()
        self.evaluations.append((self._last, result.mean))
        self.last_mean_reward = result.mean
        self.logger.record("eval/mean_reward", result.mean)
        self.logger.record("eval/mean_ep_length", sum(result.lengths) / len(result.lengths))
        if result.success_rate is not None:
            self.logger.record("eval/success_rate", result.success_rate)
        better, goes_on = result.mean > self.best_mean_reward, True
        if better:
            self.best_mean_reward = result.mean
            if self.best_model_save_path is not None:
                self.best_model_save_path.mkdir(parents=True, exist_ok=True)
                self.model.save(self.best_model_save_path / "best_model.zip")
            goes_on = self.on_new_best.on_step()
        return self.after_eval.on_step() and goes_on

    def _result(self) -> EvaluationResult:
        if self.eval_env is None:
            return self.model.evaluate(self.n_eval_episodes, deterministic=self.deterministic)
        seed = EVALUATION_SEED + self.model.config.seed
        return evaluate_policy(self.model.act(self.deterministic), self.eval_env, self.n_eval_episodes, seed)


class CheckpointCallback(BaseCallback):
    """Saves the model under a name of its own every ``save_freq`` environment steps, after the update.

    A run directory keeps the newest checkpoint by itself; this one keeps all of them.

    Args:
        save_freq: Environment steps between files.
        save_path: Folder.
        name_prefix: Of the files ``{name_prefix}_{steps}_steps.zip``.
    """

    def __init__(self, save_freq: int, save_path: str | Path, name_prefix: str = "rl_model") -> None:
        super().__init__()
        self.save_freq = checked("save_freq", save_freq, Count)
        self.save_path, self.name_prefix = Path(save_path), name_prefix
        self._last = 0

    def _on_training_start(self) -> None:
        self._last = self.model.num_timesteps
        self.save_path.mkdir(parents=True, exist_ok=True)

    def _on_update_end(self) -> None:
        if self.num_timesteps - self._last >= self.save_freq:
            self._last = self.num_timesteps
            self.model.save(self.save_path / f"{self.name_prefix}_{self.num_timesteps}_steps.zip")


class StopOnReward(BaseCallback):
    """Stops once the mean return is at least ``threshold``.

    Args:
        threshold: Undiscounted return of an episode.
        metric: Whose return: that of the last 20 training episodes, or that of an evaluation.
    """

    def __init__(self, threshold: float, metric: Metric = "return") -> None:
        super().__init__()
        self.threshold, self.metric = threshold, checked("metric", metric, Metric)

    def _on_update_end(self) -> bool:
        value = self.metrics.get(self.metric)
        return value is None or value < self.threshold


class StopOnNoImprovement(BaseCallback):
    """Stops once the mean return has had no new best for ``patience`` environment steps.

    Args:
        patience: Environment steps.
        metric: Whose return: that of the last 20 training episodes, or that of an evaluation.
        min_improvement: By how much a new best has to beat the one before.
    """

    def __init__(self, patience: int, metric: Metric = "return", min_improvement: float = 0.0) -> None:
        super().__init__()
        self.patience, self.metric = checked("patience", patience, Count), checked("metric", metric, Metric)
        self.min_improvement = min_improvement
        self.best = -float("inf")
        self.best_at = 0
        """Environment steps at the best."""

    def _on_training_start(self) -> None:
        self.best_at = self.num_timesteps

    def _on_update_end(self) -> bool:
        value = self.metrics.get(self.metric)
        if value is not None and value > self.best + self.min_improvement:
            self.best, self.best_at = value, self.num_timesteps
        return self.num_timesteps - self.best_at < self.patience


class StopTrainingOnMaxEpisodes(BaseCallback):
    """Stops once ``max_episodes`` training episodes have ended."""

    def __init__(self, max_episodes: int) -> None:
        super().__init__()
        self.max_episodes = max_episodes

    def _on_step(self) -> bool:
        return len(self.model.episodes.returns) < self.max_episodes
