"""verl's synchronous trainer with lambda and replay: steps, checkpoints, resuming."""

from __future__ import annotations

import json
import os
import pickle
from functools import partial
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("verl")
pytest.importorskip("transfer_queue")

import transfer_queue as tq
from tensordict import TensorDict
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.metric.utils import Metric
from verl.utils.py_functional import append_to_dict
from verl.workers.utils.losses import ppo_loss
from verl_local import ANSWERS, GROUP, PROMPTS, empty, fetch, roll_out

from r2vpo.llm.verl.trainer import REPLAY_FILE, STATE_FILE, R2VPOTrainer


class Workers:
    """Actor workers on two ranks: minibatches, micro-batches and metrics as verl's TrainingWorker treats them.

    The model is a table of logits by prompt; log-probs come out one position early over prompt and answer, as those of
    a language model do.
    """

    ranks = 2

    def __init__(self, config, lr=0.05):
        self._dispatch_info = {"actor": list(range(self.ranks))}
        self.logits = torch.zeros(PROMPTS, ANSWERS, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.logits], lr=lr)
        self.set_loss_fn(partial(ppo_loss, config=omega_conf_to_dataclass(config.actor_rollout_ref.actor)))
        self.lambdas = []
        self.variances = []

    def set_loss_fn(self, loss_fn):
        self.loss_fn = pickle.loads(pickle.dumps(loss_fn))

    def update_actor(self, batch):
        self.lambdas.append(self.loss_fn.keywords["config"].policy_loss.lam)
        info = batch.extra_info
        self.variances.append([])
        names = ["prompts", "responses", "response_mask", "old_log_probs", "advantages", "rollout_is_weights"]
        # As verl's workers do, which get the fields that the batch says it has.
        data = fetch(batch.keys, [name for name in names if name in batch.fields])
        shards = torch.arange(len(batch)).chunk(self.ranks)
        size = info["mini_batch_size"] // self.ranks
        metrics = {}
        for parts in zip(*[shard.split(size) for shard in shards], strict=True):
            append_to_dict(metrics, self._gradient_step(data, parts, info["global_batch_size"]))
        return {"metrics": metrics | {"mfu": [0.0]}}

    def compute_log_prob(self, batch):
        data = fetch(batch.keys, ["prompts", "responses"])
        with torch.no_grad():
            log_probs = nested([self.log_probs(data, row) for row in range(len(batch))])
        output = TensorDict({"log_probs": log_probs, "entropy": -log_probs}, batch_size=len(batch))
        return tq.kv_batch_put(keys=batch.keys, partition_id="train", fields=output)

    def save_checkpoint(self, path, *arguments, **options):
        os.makedirs(path, exist_ok=True)
        torch.save([self.logits, self.optimizer.state_dict()], f"{path}/model.pt")

    def load_checkpoint(self, local_path, **options):
        logits, optimizer = torch.load(f"{local_path}/model.pt", weights_only=False)
        self.logits.data.copy_(logits.detach())
        self.optimizer.load_state_dict(optimizer)

    def _gradient_step(self, data, parts, global_batch_size):
        tokens = sum(int(data["response_mask"][row].sum()) for part in parts for row in part)
        self.optimizer.zero_grad()
        by_rank = []
        for part in parts:
            reported = {}
            for rows in part.split(2):
                micro = {name: nested([data[name][row] for row in rows]) for name in data.keys()}  # noqa: SIM118
                micro = TensorDict(micro, batch_size=len(rows))
                tu.assign_non_tensor(
                    micro, dp_size=self.ranks, batch_num_tokens=tokens, global_batch_size=global_batch_size
                )
                output = {"log_probs": nested([self.log_probs(data, row) for row in rows])}
                loss, metrics = self.loss_fn(model_output=output, data=micro)
                (loss / self.ranks).backward()
                append_to_dict(reported, metrics)
            by_rank.append(reported)
        self.optimizer.step()
        step = {name: Metric.aggregate_dp([reported[name] for reported in by_rank]) for name in by_rank[0]}
        self.variances[-1].append(step["r2vpo/ratio_variance"] / step["r2vpo/tokens"])
        return step

    def log_probs(self, data, row):
        prompt, answer = data["prompts"][row], data["responses"][row]
        scored = self.logits.log_softmax(-1)[prompt[-1] % PROMPTS][answer % ANSWERS]
        return torch.cat([torch.zeros(len(prompt) - 1), scored, torch.zeros(1)])


def nested(rows):
    return torch.nested.as_nested_tensor(list(rows), layout=torch.jagged)


class Driver:
    """The trainer with a rollout engine that reads the workers' table; every prompt has one right answer."""

    def __init__(self, config, **workers):
        self.generator = torch.Generator().manual_seed(0)
        self.rewards = []
        self.trainer = R2VPOTrainer(config)
        self.trainer.replay_buffer.poll_interval = 0.01
        self.trainer.actor_rollout_wg = self.workers = Workers(config, **workers)
        self.trainer.prepare_step = self.collect
        self.trainer.global_steps = 1
        self.trainer.curr_step_profile = False
        self.trainer.tokenizer = SimpleNamespace(eos_token_id=0)
        self.trainer.checkpoint_manager = SimpleNamespace(sleep_replicas=lambda: None)
        self.trainer.reward_loop_manager = SimpleNamespace(reward_loop_worker_handles=[])
        self.trainer.train_dataloader = SimpleNamespace(state_dict=dict, load_state_dict=lambda state: None)

    def collect(self):
        with torch.no_grad():
            log_probs = self.workers.logits.log_softmax(-1)
        actions = torch.multinomial(log_probs.exp(), GROUP, replacement=True, generator=self.generator)
        rewards = (actions == torch.arange(PROMPTS)[:, None] % ANSWERS).float()
        self.rewards.append(rewards.mean().item())
        scored = log_probs.gather(1, actions)
        roll_out(
            self.trainer.global_steps,
            [list(group.unsqueeze(1)) for group in actions],
            [list(group.unsqueeze(1)) for group in scored],
            rewards.tolist(),
        )
        return {}

    def step(self):
        metrics = {}
        batch = self.trainer.step(metrics, {})
        self.last = batch
        return metrics

    def clear(self):
        tq.kv_clear(keys=self.last.keys, partition_id="train")
        self.trainer.global_steps += 1


def test_a_short_run_improves_and_lambda_follows_equation_12(queue, config):
    """Whole steps of verl's trainer, minus the GPUs: 10 iterations of 16 answers each, replayed twice."""
    config.actor_rollout_ref.actor.policy_loss.update(lam=0.5, delta=0.05, eta=0.2)
    driver = Driver(config, lr=0.1)
    logged = []
    for _ in range(10):
        logged.append(driver.step())
        driver.clear()
    assert sum(driver.rewards[:2]) / 2 < 0.4
    assert sum(driver.rewards[-3:]) / 3 > 0.7, driver.rewards
    # Two iterations' worth of groups in minibatches of two prompts: four gradient steps, four dual steps.
    lam = 0.5
    for metrics, sent in zip(logged, driver.workers.lambdas, strict=True):
        assert metrics["actor/lam"] == sent == pytest.approx(lam, rel=1e-9)
        for _ in range(4):
            lam = max(0.0, lam - 0.2 * (0.05 - metrics["actor/ratio_variance"]))
    assert driver.trainer.dual.lam == pytest.approx(lam, rel=1e-9)
    assert len(set(driver.workers.lambdas)) == 10
    assert max(metrics["actor/ratio_variance"] for metrics in logged) > 0.01  # replayed data is not on-policy
    assert not [name for name in logged[0] if "r2vpo/" in name]


def at_anchor(config, anchor, **settings):
    config = config.copy()
    config.actor_rollout_ref.actor.policy_loss.update(anchor=anchor, **settings)
    config.algorithm.rollout_correction.bypass_mode = anchor == "behaviour"
    return config


def test_at_the_proximal_anchor_the_ratio_starts_at_one_and_truncated_ratios_weigh_the_advantages(queue, config):
    driver = Driver(at_anchor(config, "proximal", lam=0.5, delta=0.05, eta=0.2), lr=0.2)
    smallest = []
    for _ in range(3):
        metrics = driver.step()
        names = ("old_log_probs", "rollout_log_probs", "rollout_is_weights")
        data = fetch(driver.last.keys, list(names))
        old, behaviour, weights = (data[name].values() for name in names)
        torch.testing.assert_close(weights, (old - behaviour).exp().clamp(max=1.0))
        smallest.append(float(weights.min()))
        first, *others = driver.workers.variances[-1]
        assert first < 1e-10 < 1e-4 < max(others)  # a step moves its own prompts alone
        assert metrics["actor/ratio_variance"] == pytest.approx((first + sum(others)) / 4, rel=1e-5)
        driver.clear()
    assert smallest[0] > 1 - 1e-6
    assert max(smallest[1:]) < 0.9


def test_the_anchors_are_the_same_on_a_fresh_rollout(queue, config):
    config.trainer.v1.sampler.custom_sampler.path = None
    tables = []
    for anchor in ("behaviour", "proximal"):
        driver = Driver(at_anchor(config, anchor))
        driver.step()
        tables.append(driver.workers.logits.detach())
        empty()
    torch.testing.assert_close(*tables, rtol=0, atol=1e-6)
    assert tables[0].abs().max() > 0.01


def test_a_run_that_is_resumed_goes_on_as_if_it_had_not_stopped(queue, config, tmp_path):
    """Lambda, the buffer with its rollouts, and the next draw."""
    config.actor_rollout_ref.actor.policy_loss.update(lam=0.5, delta=0.05, eta=0.2)
    config.trainer.default_local_dir = str(tmp_path)
    config.trainer.total_training_steps = 5
    driver = Driver(config)
    for _ in range(3):
        driver.step()
        if driver.trainer.global_steps == 3:
            driver.trainer._save_checkpoint()
            generator = driver.generator.get_state()
        driver.clear()
    saved = json.loads((tmp_path / "global_step_3" / STATE_FILE).read_text())
    assert saved["dual"]["lam"] == driver.trainer.dual.lam != 0.5
    expected = driver.step()
    table = driver.workers.logits.detach().clone()

    empty()
    resumed = Driver(config)
    resumed.trainer._load_checkpoint()
    resumed.generator.set_state(generator)
    assert resumed.trainer.global_steps == 3
    assert resumed.trainer.dual.state_dict() == saved["dual"]
    groups = resumed.trainer.replay_buffer._groups
    assert len(groups) == 3 * PROMPTS
    # The copies of the step that wrote the checkpoint came back with it, and are gone again.
    assert set(tq.kv_list("train")["train"]) == {key for group in groups.values() for key in group.keys}
    resumed.trainer.global_steps = 4
    assert resumed.step()["actor/ratio_variance"] == pytest.approx(expected["actor/ratio_variance"], rel=1e-5)
    torch.testing.assert_close(resumed.workers.logits.detach(), table)
    assert resumed.trainer.dual.lam == pytest.approx(driver.trainer.dual.lam, rel=1e-6)


def test_a_checkpoint_of_another_trainer_gives_a_warning_and_the_first_lambda(queue, config, tmp_path, caplog):
    config.trainer.default_local_dir = str(tmp_path)
    driver = Driver(config)
    driver.trainer._save_checkpoint()
    (tmp_path / "global_step_1" / STATE_FILE).unlink()
    resumed = Driver(config)
    resumed.trainer._load_checkpoint()
    assert resumed.trainer.dual.lam == 0.04
    assert f"has no {STATE_FILE}" in caplog.text


def test_without_the_sampler_the_trainer_is_on_policy(queue, config, tmp_path):
    config.trainer.v1.sampler.custom_sampler.path = None
    config.trainer.default_local_dir = str(tmp_path)
    driver = Driver(config)
    assert type(driver.trainer.replay_buffer) is ReplayBuffer
    assert driver.trainer.trainer_mode == "sync"
    driver.step()
    assert len(driver.last) == PROMPTS * GROUP
    driver.trainer._save_checkpoint()
    assert not (tmp_path / "global_step_1" / REPLAY_FILE).exists()
