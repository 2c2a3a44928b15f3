"""R²VPO inside rsl_rl's `OnPolicyRunner`: thousands of environments on a GPU, several GPUs.

The runner finds it by name, ``algorithm: {class_name: "r2vpo.control.rsl_rl:R2VPO", ...}``. Models, storage,
collection, checkpoints and logging stay rsl_rl's; the update is this library's.
"""

from __future__ import annotations

import inspect
import math
from collections import defaultdict
from dataclasses import fields
from typing import Any

import torch
from rsl_rl.algorithms import PPO
from rsl_rl.models import MLPModel
from rsl_rl.storage import RolloutStorage
from rsl_rl.utils import reduce_gradients_in_buckets
from tensordict import TensorDict
from torch import Tensor, nn

from r2vpo.advantages import standardised
from r2vpo.control.rsl_rl.replay import fresh_samples, in_chunks, replayed_samples, stored_rollout
from r2vpo.control.rsl_rl.settings import (
    Settings,
    check_features,
    check_names,
    configured_objective,
    fixed_schedule,
)
from r2vpo.dual import DualController
from r2vpo.errors import CheckpointError, TrainingDiverged
from r2vpo.processes import Processes, SingleProcess, TorchProcesses
from r2vpo.replay import ReplayBuffer
from r2vpo.update import PolicyUpdater, Scored
from r2vpo.validation import upgraded

DIAGNOSTICS = ("ratio_variance", "lam", "ess", "max_ratio", "sign_flip", "kl", "grad_norm", "skipped_steps")
"""What :meth:`R2VPO.update` reports of :meth:`r2vpo.update.PolicyUpdater.summary`."""

_PPO_SETTINGS = tuple(inspect.signature(PPO).parameters)[3:]


class R2VPO(PPO):
    """rsl_rl's PPO with another update: ratio-variance penalty, dual variable, replay (arXiv 2601.03320, Algorithm 2).

    Args:
        actor, critic, storage: As rsl_rl's ``construct_algorithm`` passes them.
        settings: Those of :class:`Settings` and of rsl_rl's PPO, by name. ``schedule`` is always ``"fixed"``.

    Raises:
        ConfigError: An unknown setting, a value outside its range, or a feature that does not go with this method.
    """

    def __init__(self, actor: MLPModel, critic: MLPModel, storage: RolloutStorage, **settings: Any) -> None:
        settings = upgraded(settings)
        check_names(settings, _PPO_SETTINGS)
        own = {f.name: settings.pop(f.name) for f in fields(Settings) if f.name in settings}
        self.settings = Settings(**own)
        check_features({"actor": actor, "critic": critic}, settings)
        objective = configured_objective(self.settings, settings)
        settings["schedule"] = fixed_schedule(settings)
        super().__init__(actor, critic, storage, **settings)
        for group in self.optimizer.param_groups:
            # A CNN that actor and critic share is in the list twice, and would be reduced over ranks and stepped twice.
            group["params"] = list(dict.fromkeys(group["params"]))
        self.processes: Processes = TorchProcesses(self.device) if self.is_multi_gpu else SingleProcess()
        dual = DualController(self.settings.dual_lam, self.settings.delta, self.settings.eta, self.settings.dual)
        # rsl_rl bounds the gradients of actor and critic apart, so the updater is left without a bound of its own.
        self.optimizer.register_step_pre_hook(self._clip_gradients)
        self.updater = PolicyUpdater(objective, dual, self.optimizer, self._score, math.inf, processes=self.processes)
        self.replay = ReplayBuffer(self.settings.buffer_iterations)
        self._time_outs = torch.zeros_like(storage.dones.squeeze(-1), dtype=torch.bool)
        self._last_observations: TensorDict | None = None
        self._count = 1
        self._tally: dict[str, list[Tensor]] = defaultdict(list)

    def process_env_step(self, obs: TensorDict, rewards: Tensor, dones: Tensor, extras: dict[str, Tensor]) -> None:
        """Record one environment step, and where it ended in a time-out."""
        time_outs = extras.get("time_outs")
        self._time_outs[self.storage.step] = False if time_outs is None else time_outs.to(self.device).bool()
        super().process_env_step(obs, rewards, dones, extras)

    def compute_returns(self, obs: TensorDict) -> None:
        """rsl_rl's returns of the fresh rollout; ``obs``, what follows it, is kept for replay."""
        super().compute_returns(obs)
        self._last_observations = obs

    def update(self) -> dict[str, float]:
        """Improve the policy on the replay buffer, then let the normalizers see the new observations.

        Returns:
            Mean ``value`` and ``surrogate`` losses and ``entropy`` (nats) of this process, ``rnd`` and ``symmetry``
            where they are in use, :data:`DIAGNOSTICS`, and the ratio variance by age in rollouts.

        Raises:
            TrainingDiverged: Not one gradient step was finite.
        """
        samples = self._samples()
        self._count = int(self.processes.sum(torch.tensor([self._minibatch_size])))
        order = self.replay.minibatches(self._minibatch_size, self._gradient_steps(), torch.default_generator)
        for index in order:
            minibatch = samples[index.to(self.device)]
            if self.normalize_advantage_per_mini_batch:
                minibatch["advantages"] = standardised(minibatch["advantages"], self.processes)
            self.updater.step([minibatch], self._count)
            if self.rnd:
                self._train_rnd(minibatch["observations"])
        losses = self._losses()
        observations = self.storage.observations.flatten(0, 1)
        for model in (self.actor, self.critic, *([self.rnd] if self.rnd else [])):
            model.update_normalization(observations)
        self.storage.clear()
        return losses

    def save(self) -> dict[str, Any]:
        """rsl_rl's dictionary, with lambda and the replay buffer."""
        saved = {**super().save(), "dual_state_dict": self.updater.dual.state_dict()}
        if self.settings.save_buffer and self.settings.buffer_iterations > 1:
            saved["replay_state_dict"] = self.replay.state_dict()
        return saved

    def load(self, loaded_dict: dict[str, Any], load_cfg: dict[str, bool] | None, strict: bool) -> bool:
        """Restore what :meth:`save` returned; settings are those of this run, and PPO's checkpoints load too.

        Args:
            loaded_dict: From the checkpoint.
            load_cfg: rsl_rl's keys, and ``dual`` and ``replay``; None loads everything.
            strict: Whether the models' states must fit exactly.

        Raises:
            CheckpointError: The replay buffer holds other observations or actions than this run's.
        """
        wanted = {"dual": True, "replay": True} if load_cfg is None else load_cfg
        if wanted.get("replay") and "replay_state_dict" in loaded_dict:
            self._load_replay(loaded_dict["replay_state_dict"])
        if wanted.get("dual") and "dual_state_dict" in loaded_dict and self.updater.dual.rule != "fixed":
            self.updater.dual.lam = loaded_dict["dual_state_dict"]["lam"]
        return super().load(loaded_dict, load_cfg, strict)

    @property
    def _minibatch_size(self) -> int:
        return self.storage.num_envs * self.storage.num_transitions_per_env // self.num_mini_batches

    def _gradient_steps(self) -> int:
        """Steps of this update, in proportion to the fill of the buffer while it grows."""
        once = self.num_learning_epochs * self.num_mini_batches
        return max(1, round(once * (1.0 + (self.settings.utd - 1.0) * self.replay.fill)))

    def _samples(self) -> TensorDict:
        """Samples of the whole buffer, in the order of its positions, after adding the rollout in the storage."""
        rollout = {}
        if self.replay.capacity_iterations > 1:
            rollout = stored_rollout(self.storage, self._time_outs, self._last_observations, self.gamma)
        self.replay.add(rollout, self.storage.num_envs * self.storage.num_transitions_per_env)
        parts = [
            replayed_samples(
                older,
                lambda *inputs: in_chunks(self._log_prob, self._minibatch_size, *inputs),
                lambda inputs: in_chunks(self._value, self._minibatch_size, inputs),
                gamma=self.gamma,
                gae_lambda=self.lam,
                trace_cap=self.settings.trace_cap,
                anchor=self.settings.anchor,
            )
            for older in self.replay.iterations[:-1]
        ]
        parts.append(fresh_samples(self.storage))
        samples: Any = torch.cat(parts) if len(parts) > 1 else parts[0]  # type: ignore[arg-type, unused-ignore]
        samples["age"] = self.replay.ages().to(self.device)
        if not self.normalize_advantage_per_mini_batch:
            samples["advantages"] = standardised(samples["advantages"], self.processes)
        return samples

    def _log_prob(self, observations: TensorDict, actions: Tensor) -> Tensor:
        self.actor(observations, stochastic_output=True)
        return self.actor.get_output_log_prob(actions)

    def _value(self, observations: TensorDict) -> Tensor:
        # The actor stays in float32: it collected in float32, and the ratio would measure the difference.
        kind = torch.device(self.device).type
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=self.use_mixed_precision):
            return self.critic(observations).squeeze(-1).float()

    def _score(self, minibatch: TensorDict) -> Scored:
        """Score one minibatch; the auxiliary loss is rsl_rl's value loss, entropy bonus and mirror loss."""
        observations = minibatch["observations"]
        log_prob = self._log_prob(observations, minibatch["actions"])
        entropy = self.actor.output_entropy
        value_loss = self._value_loss(self._value(observations), minibatch)
        auxiliary = (self.value_loss_coef * value_loss.sum() - self.entropy_coef * entropy.sum()) / self._count
        advantages = minibatch["advantages"] * minibatch["weight"]
        scored = Scored(log_prob, minibatch["old_log_prob"], advantages, age=minibatch["age"])
        means = {"value": value_loss, "surrogate": self._surrogate(scored), "entropy": entropy}
        if self.symmetry:
            means["symmetry"] = self.symmetry.compute_loss(
                self.actor, RolloutStorage.Batch(observations=observations), len(log_prob)
            )
            if self.symmetry.use_mirror_loss:
                share = len(log_prob) / self._count
                auxiliary = auxiliary + self.symmetry.mirror_loss_coeff * share * means["symmetry"]
        for name, values in means.items():
            self._tally[name].append(values.detach().mean())
        scored.auxiliary_loss = auxiliary
        return scored

    def _value_loss(self, values: Tensor, minibatch: TensorDict) -> Tensor:
        """rsl_rl's value loss, elementwise ``[n]``."""
        squares = (values - minibatch["returns"]).square()
        if not self.use_clipped_value_loss:
            return squares
        before = minibatch["values"]
        clipped = before + (values - before).clamp(-self.clip_param, self.clip_param)
        return torch.maximum(squares, (clipped - minibatch["returns"]).square())

    @torch.no_grad()
    def _surrogate(self, scored: Scored) -> Tensor:
        overrides: dict[str, Any] = {"lam": self.updater.dual.lam} if self.updater.objective.uses_dual else {}
        return self.updater.objective(scored.log_prob, scored.old_log_prob, scored.advantage, **overrides)

    def _clip_gradients(self, *_: Any) -> None:
        for model in (self._raw_actor, self._raw_critic):
            nn.utils.clip_grad_norm_(model.parameters(), self.max_grad_norm)

    def _train_rnd(self, observations: TensorDict) -> None:
        loss = self.rnd.compute_loss(observations)
        self.rnd.optimizer.zero_grad()
        loss.backward()
        if self.is_multi_gpu:
            reduce_gradients_in_buckets(self.rnd.parameters(), self.gpu_world_size, self.grad_reduce_bucket_mb)
        self.rnd.optimizer.step()
        self._tally["rnd"].append(loss.detach())

    def _losses(self) -> dict[str, float]:
        summary = self.updater.summary()
        if not summary["gradient_steps"]:
            raise TrainingDiverged(f"all {summary['skipped_steps']} gradient steps of one update were non-finite")
        losses = {name: float(torch.stack(values).mean()) for name, values in self._tally.items()}
        self._tally.clear()
        losses |= {name: float(summary[name]) for name in DIAGNOSTICS}
        by_age = summary["ratio_variance_by_age"]
        return losses | {f"ratio_variance_age_{age}": variance for age, variance in by_age.items()}

    def _load_replay(self, state: dict[str, Any]) -> None:
        expected = {f"observations/{name}": values.shape[2:] for name, values in self.storage.observations.items()}
        expected["actions"] = self.storage.actions.shape[2:]
        for rollout in state["iterations"]:
            found = {name: x.shape[2:] for name, x in rollout.items() if name.startswith(("observations/", "actions"))}
            if found != expected:
                raise CheckpointError(
                    f"the replay buffer holds {found}, this run has {expected}; load without 'replay'"
                )
        self.replay = ReplayBuffer(self.settings.buffer_iterations)
        for rollout, size in zip(state["iterations"], state["sizes"], strict=True):
            self.replay.add({name: values.to(self.device) for name, values in rollout.items()}, size)
