"""verl's synchronous trainer with the dual variable: it moves lambda, sends it to the workers and saves it."""

from __future__ import annotations

import json
import logging
import math
import os
from functools import partial
from pathlib import Path
from typing import Any

import transfer_queue as tq
from omegaconf import DictConfig
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import response_to_nested

from r2vpo.llm.verl.config import check_config
from r2vpo.llm.verl.loss import AVERAGED, PREFIX, TOKENS
from r2vpo.llm.verl.sampler import FIFOReplayBuffer
from r2vpo.replay import proximal_weights
from r2vpo.runs.checkpoint import load_tree, save_tree

STATE_FILE = "r2vpo.json"
REPLAY_FILE = "r2vpo_replay.zip"
ROLLOUTS_FOLDER = "transfer_queue"

_log = logging.getLogger(__name__)


@register_trainer("r2vpo")
class R2VPOTrainer(PPOTrainerSync):
    """``trainer.v1.trainer_mode=r2vpo``: verl's ``sync`` trainer plus lambda (arXiv 2601.03320, Algorithms 1 and 2).

    One call of the actor's update runs all its gradient steps on the workers, with one lambda. Afterwards lambda takes
    as many dual steps as there were gradient steps, on the ratio variance of all their tokens.

    Args:
        config: verl's whole configuration.

    Raises:
        ConfigError: See :func:`r2vpo.llm.verl.config.check_config`.
    """

    def __init__(self, config: DictConfig) -> None:
        settings = check_config(config)
        self.dual, self.anchor = settings.make_dual(), settings.anchor
        self._sent_lam: float | None = None
        super().__init__(config)

    def _build_replay_buffer(self) -> ReplayBuffer:
        # verl decides by this name which sampler it builds, how prompts are fetched and what is saved.
        self.trainer_mode = "sync"
        return super()._build_replay_buffer()

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """verl's advantages and, with the proximal anchor, weights, in the field that verl hands to a loss as such."""
        batch = super()._compute_advantage(batch, metrics)
        if self.anchor == "behaviour":
            return batch
        # The old log-probs are those that verl's actor has just computed of everything drawn for this update.
        names = ["old_log_probs", "rollout_log_probs", "response_mask"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
        padded = data.to_padded_tensor()
        weights = proximal_weights(padded["old_log_probs"], padded["rollout_log_probs"])
        fields = {"rollout_is_weights": response_to_nested(weights, data["response_mask"])}
        fields = TensorDict(fields, batch_size=len(batch))
        return tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        self._send_lam()
        batch = super()._update_actor(batch, metrics)
        tokens = float(metrics.pop(f"actor/{TOKENS}")) or math.nan
        for name in AVERAGED:
            metrics[f"actor/{name}"] = float(metrics.pop(f"actor/{PREFIX}{name}")) / tokens
        metrics["actor/max_ratio"] = metrics.pop(f"actor/{PREFIX}max_ratio")
        metrics["actor/lam"] = self.dual.lam
        for _ in range(self._gradient_steps(batch)):
            self.dual.update(metrics["actor/ratio_variance"])
        return batch

    def _send_lam(self) -> None:
        """Give the workers verl's loss with the current lambda in its configuration."""
        if self.dual.lam == self._sent_lam:
            return
        actor = omega_conf_to_dataclass(self.config.actor_rollout_ref.actor)
        actor.policy_loss.lam = self.dual.lam
        self.actor_rollout_wg.set_loss_fn(partial(ppo_loss, config=actor))
        self._sent_lam = self.dual.lam

    def _gradient_steps(self, batch: KVBatchMeta) -> int:
        actor = self.config.actor_rollout_ref.actor
        trajectories = actor.ppo_mini_batch_size * self.config.actor_rollout_ref.rollout.n
        return len(batch) // trajectories * actor.ppo_epochs

    def _save_checkpoint(self) -> None:
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(self.replay_buffer, FIFOReplayBuffer):
            tq.save_checkpoint(folder / ROLLOUTS_FOLDER, metadata={"global_steps": self.global_steps})
            save_tree(folder / REPLAY_FILE, self.replay_buffer.state_dict())
        (folder / STATE_FILE).write_text(json.dumps({"dual": self.dual.state_dict()}))
        # Last, because at its end it names this checkpoint as the one to resume from.
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if not self.global_steps:
            return
        folder = self._resumed_folder()
        if not (folder / STATE_FILE).exists():
            _log.warning("%s has no %s: lambda and the buffer start afresh", folder, STATE_FILE)
            return
        self.dual.load_state_dict(json.loads((folder / STATE_FILE).read_text())["dual"])
        if isinstance(self.replay_buffer, FIFOReplayBuffer) and (folder / REPLAY_FILE).exists():
            tq.load_checkpoint(folder / ROLLOUTS_FOLDER)
            self.replay_buffer.load_state_dict(load_tree(folder / REPLAY_FILE))

    def _resumed_folder(self) -> Path:
        """Where verl has just resumed from; it does not keep the name."""
        trainer = self.config.trainer
        if trainer.resume_mode == "resume_path":
            return Path(os.getcwd(), trainer.resume_from_path)
        return Path(os.getcwd(), trainer.default_local_dir, f"global_step_{self.global_steps}")
