"""The verl adapter on verl's own classes, as far as they run without a GPU.

Real: verl's registries, configuration, ``ppo_loss``, metric aggregation, TransferQueue under a local Ray, the sampler's
base class, and the trainer's step (log-probs, advantages, update, checkpoint). Written down here and in the tests: the
actor's worker group, whose engines need an accelerator, and the rollout engine; a table of logits stands for the model.
"""

from __future__ import annotations

import os

import torch

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 starves its workers on a busy machine

import transfer_queue as tq
from omegaconf import OmegaConf
from verl.utils import tensordict_utils as tu

from r2vpo.llm.verl.sampler import FIFOReplayBuffer

PROMPTS, GROUP, ANSWERS, MINIBATCH = 4, 4, 6, 2
"""Prompts an iteration, answers to each, different answers, prompts in a minibatch."""


SETTINGS = (
    f"data.train_batch_size={PROMPTS}",
    f"actor_rollout_ref.actor.ppo_mini_batch_size={MINIBATCH}",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=4",
    f"actor_rollout_ref.rollout.n={GROUP}",
    "actor_rollout_ref.rollout.name=vllm",
    "trainer.n_gpus_per_node=1",
)


def empty(partition="train"):
    if keys := list((tq.kv_list(partition) or {}).get(partition, {})):
        tq.kv_clear(keys=keys, partition_id=partition)


def make_sampler(**settings):
    return FIFOReplayBuffer(
        trainer_mode="sync",
        trainer_config=OmegaConf.create({}),
        max_off_policy_threshold=8,
        max_off_policy_strategy="drop",
        sampler_kwargs=OmegaConf.create(settings),
        refill_fn=None,
        poll_interval=0.01,
    )


def roll_out(step, actions, log_probs, rewards, partition="train", prompts=None):
    """Put groups where verl's agent loop puts them: ``actions`` and ``log_probs`` are lists of [T], by group."""
    for index, group in enumerate(actions):
        uid = f"{partition}-{step}-{index}"
        rows = []
        for session, answer in enumerate(group):
            prompt = torch.tensor([7, 7, index if prompts is None else prompts[index]])
            ones = torch.ones_like(answer)
            score = torch.zeros(len(answer))
            score[-1] = rewards[index][session]
            row = {"prompts": prompt, "responses": answer, "response_mask": ones, "loss_mask": ones}
            row |= {"input_ids": torch.cat([prompt, answer]), "rollout_log_probs": log_probs[index][session]}
            row |= {"position_ids": torch.arange(3 + len(answer)), "rm_scores": score, "num_turns": 2}
            row |= {"uid": uid, "session_id": session, "extra_fields": {"step": step}, "multi_modal_inputs": {}}
            row |= {"raw_prompt": [{"role": "user", "content": str(index)}], "reward_model": {"ground_truth": "1"}}
            rows.append(row)
        tag = {"status": "success", "prompt_len": 3, "min_global_steps": step, "max_global_steps": step}
        tq.kv_batch_put(
            keys=[f"{uid}_{session}_0" for session in range(len(group))],
            partition_id=partition,
            fields=tu.list_of_dict_to_tensordict(rows),
            tags=[tag | {"seq_len": 3 + len(answer), "response_len": len(answer)} for answer in group],
        )
        marker = {"is_prompt": True, "status": "finished", "global_steps": step}
        tq.kv_batch_put(keys=[uid], partition_id=partition, tags=[marker])


def fetch(keys, fields=None, partition="train"):
    return tq.kv_batch_get(keys=keys, partition_id=partition, select_fields=fields)
