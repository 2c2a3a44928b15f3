"""The verl adapter on verl's own classes, as far as they run without a GPU.

Real: verl's registries, configuration, ``ppo_loss``, metric aggregation, TransferQueue under a local Ray, the sampler's
base class, and the trainer's step (log-probs, advantages, update, checkpoint). Written down here: the actor's worker
group, whose engines need an accelerator, and the rollout engine; a table of logits stands for the model.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("verl")
pytest.importorskip("transfer_queue")

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 starves its workers on a busy machine

import ray
import transfer_queue as tq
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY, get_policy_loss_fn
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_base import get_trainer_cls
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass, validate_config
from verl.utils.metric.utils import Metric
from verl.utils.py_functional import append_to_dict
from verl.workers.config import PolicyLossConfig
from verl.workers.utils.losses import ppo_loss

import r2vpo.llm.verl as adapter
from r2vpo.diagnostics import ratio_diagnostics
from r2vpo.errors import ConfigError, HostVersionError
from r2vpo.llm.verl.check import SAMPLER, probe
from r2vpo.llm.verl.config import POLICY_LOSS
from r2vpo.llm.verl.main import FILLED_IN
from r2vpo.llm.verl.sampler import FIFOReplayBuffer
from r2vpo.llm.verl.trainer import REPLAY_FILE, STATE_FILE, R2VPOTrainer
from r2vpo.objectives import make_objective
from r2vpo.update import Scored, minibatch_loss

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
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


@pytest.fixture(scope="module")
def composed():
    """verl's whole configuration with what the entry point fills in."""
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=[*FILLED_IN, *SETTINGS])


@pytest.fixture
def config(composed):
    return composed.copy()


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20)
    tq.init(OmegaConf.create({"backend": {"SimpleStorage": {"num_data_storage_units": 1}}}))
    yield
    tq.close()
    ray.shutdown()


def empty(partition="train"):
    if keys := list((tq.kv_list(partition) or {}).get(partition, {})):
        tq.kv_clear(keys=keys, partition_id=partition)


@pytest.fixture
def queue(cluster):
    yield
    for partition in tq.kv_list() or {}:
        empty(partition)


# Registration.


def test_verl_finds_loss_trainer_and_sampler_by_name():
    assert get_policy_loss_fn("r2vpo") is adapter.r2vpo_policy_loss
    assert get_trainer_cls("r2vpo") is R2VPOTrainer
    module, name = SAMPLER
    assert issubclass(getattr(importlib.import_module(module.removeprefix("pkg://")), name), ReplayBuffer)


@pytest.mark.slow
def test_the_check_tells_a_plugin_that_verl_finds_from_one_that_it_does_not(tmp_path, monkeypatch):
    """The entry point is one that pip would write: verl alone, in a fresh process, discovers it."""
    monkeypatch.delenv("VERL_USE_EXTERNAL_MODULES", raising=False)
    metadata = tmp_path / "plugin-0.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 0.0\n")
    (metadata / "entry_points.txt").write_text("[verl.plugins]\nr2vpo = r2vpo.llm.verl\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = probe()
    assert [name for name, value in found.items() if not value or name == "error"] == []

    (metadata / "entry_points.txt").write_text("[verl.plugins]\nr2vpo = r2vpo.llm.verl:nothing\n")
    monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", "none")
    command = [sys.executable, "-m", "r2vpo.llm.verl.check"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "policy loss r2vpo          missing" in run.stdout
    assert "has no attribute 'nothing'" in run.stderr  # verl itself would say this at the level DEBUG
    assert "VERL_USE_EXTERNAL_MODULES=r2vpo.llm.verl" in run.stderr


def test_another_version_of_verl_is_refused_with_the_range(monkeypatch):
    monkeypatch.setattr("r2vpo.errors.version", lambda name: "0.8.0")
    with pytest.raises(HostVersionError, match=r"verl 0\.8\.0 is not supported; .*verl>=0\.9,<0\.10"):
        importlib.reload(adapter)


def test_the_core_alone_does_not_import_verl():
    code = "import r2vpo, r2vpo.llm, sys; print({'verl', 'ray'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


# Settings.


def test_what_the_entry_point_fills_in_is_algorithm_2_of_the_paper(config):
    settings = adapter.check_config(config)
    assert (settings.lam, settings.make_dual().rule) == (0.04, "fixed")
    assert config.trainer.v1.sampler.sampler_kwargs == {"buffer_iterations": 4, "utd": 2, "seed": 0}


@pytest.mark.parametrize("script", ["verl_one_node.sh", "verl_ray_cluster.sh"])
def test_the_settings_of_the_examples_exist_and_fit(script, tmp_path, monkeypatch):
    """The scripts with `echo` in the place of Python; verl's own validation reads what they would start."""
    for name in ("dapo-math-17k", "aime-2024"):
        (tmp_path / f"{name}.parquet").touch()
    monkeypatch.setenv("PYTHON", "echo")
    monkeypatch.setenv("DATA", str(tmp_path))
    command = [EXAMPLES / script, *(["train"] if "ray" in script else [])]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    module, overrides = run.stdout.split()[1], run.stdout.split()[2:]
    assert module == "r2vpo.llm.verl.main"
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=[*FILLED_IN, *overrides])
    assert adapter.check_config(config).lam == 0.04
    validate_config(config, use_reference_policy=False, use_critic=False)
    assert config.data.max_prompt_length + config.data.max_response_length == 16384
    assert config.trainer.nnodes == (2 if "ray" in script else 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("algorithm.rollout_correction.bypass_mode", False),
        ("actor_rollout_ref.rollout.calculate_log_probs", False),
        ("actor_rollout_ref.rollout.logprobs_mode", "raw_logprobs"),
        ("actor_rollout_ref.rollout.top_p", 0.95),
        ("actor_rollout_ref.rollout.top_k", 50),
        ("algorithm.rollout_correction.rollout_is", "token"),
        ("algorithm.filter_groups.enable", True),
        ("trainer.v1.sampler.sync_refill_failed_groups", True),
        ("trainer.use_v1", False),
        ("trainer.v1.trainer_mode", "separate_async"),
        ("distillation.enabled", True),
        (f"{POLICY_LOSS}.loss_mode", "vanilla"),
        (f"{POLICY_LOSS}._target_", "verl.workers.config.PolicyLossConfig"),
    ],
)
def test_a_setting_that_would_silently_be_wrong_is_refused(config, name, value):
    OmegaConf.update(config, name, value)
    # What this mistake would otherwise reach is not what this test is about.
    if name.endswith("_target_"):
        config.actor_rollout_ref.actor.policy_loss = {"_target_": value, "loss_mode": "r2vpo"}
    with pytest.raises(ConfigError) as caught:
        R2VPOTrainer(config)
    assert caught.value.field == name


@pytest.mark.parametrize(
    ("name", "value"), [("lam", -1.0), ("lam", "much"), ("delta", 0.0), ("eta", -0.1), ("dual", "newton")]
)
def test_a_dual_setting_out_of_range_is_refused(config, name, value):
    config.actor_rollout_ref.actor.policy_loss[name] = value
    with pytest.raises(ConfigError) as caught:
        adapter.check_config(config)
    assert caught.value.field == name


def test_every_trainer_of_verl_refuses_ratios_against_the_current_policy(config):
    """verl builds the actor's configuration before any trainer starts, and so do the workers."""
    config.algorithm.rollout_correction.bypass_mode = False
    with pytest.raises(Exception, match="bypass_mode=False is not allowed"):
        omega_conf_to_dataclass(config.actor_rollout_ref.actor)


@pytest.mark.parametrize(
    "settings", [{"utd": 0}, {"utd": 1.5}, {"buffer_iterations": 0}, {"seed": -1}, {"buffer_size": 4}]
)
def test_a_sampler_setting_out_of_range_is_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        make_sampler(**settings)


# Loss and gradient.


def padded_batch(seed=0, rows=6, width=9):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([9, 1, 4, 0, 7, 2])  # a row without tokens is what verl fills batches up with
    log_prob = -3.0 * torch.rand(rows, width, generator=generator)
    return SimpleNamespace(
        log_prob=log_prob.requires_grad_(),
        old=log_prob.detach() + 0.4 * torch.randn(rows, width, generator=generator),
        advantages=torch.randn(rows, 1, generator=generator).expand(rows, width).contiguous(),
        mask=torch.arange(width) < lengths[:, None],
    )


def actor_config(config, lam=0.3, **global_batch_info):
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    actor.policy_loss.lam = lam
    actor.global_batch_info.update(global_batch_info)
    return actor


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("rows", [6, 2, 1])
def test_loss_gradient_and_ratio_variance_are_the_cores_in_any_split(config, rows, ranks):
    """Micro-batches of ``rows`` rows; the gradients of ``ranks`` ranks are averaged, as FSDP does."""
    batch = padded_batch()
    count = int(batch.mask.sum())
    core = minibatch_loss(
        make_objective("r2vpo", lam=0.3), Scored(batch.log_prob, batch.old, batch.advantages, batch.mask), count
    )
    loss_fn = get_policy_loss_fn("r2vpo")
    actor = actor_config(config, dp_size=ranks, batch_num_tokens=count, global_batch_size=6, loss_scale_factor=None)
    losses, reported = [], []
    for part in torch.arange(6).split(rows):
        loss, metrics = loss_fn(
            old_log_prob=batch.old[part],
            log_prob=batch.log_prob[part],
            advantages=batch.advantages[part],
            response_mask=batch.mask[part],
            loss_agg_mode="token-mean",
            config=actor,
            rollout_is_weights=None,
        )
        losses.append(loss / ranks)
        reported.append(metrics)
    torch.testing.assert_close(sum(losses), core, rtol=1e-6, atol=1e-6)
    gradients = [torch.autograd.grad(loss, batch.log_prob)[0] for loss in (sum(losses), core)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-6)
    assert gradients[0].count_nonzero() == count

    pooled = {}
    for metrics in reported:
        append_to_dict(pooled, Metric.from_dict(metrics, "mean"))
    values = ratio_diagnostics(batch.log_prob - batch.old, batch.advantages, batch.mask, 0.3)
    for name in ("ratio_variance", "sign_flip", "kl"):
        mean = pooled[f"r2vpo/{name}"].aggregate() / pooled["r2vpo/tokens"].aggregate()
        assert mean == pytest.approx(values[name], rel=1e-6)


def test_padding_has_no_say(config):
    batch = padded_batch()
    batch.old[~batch.mask] = torch.nan
    batch.advantages[~batch.mask] = torch.inf
    actor = actor_config(config)
    loss, metrics = get_policy_loss_fn("r2vpo")(batch.old, batch.log_prob, batch.advantages, batch.mask, config=actor)
    loss.backward()
    assert batch.log_prob.grad.isfinite().all()
    assert all(torch.tensor(list(metrics.values())).isfinite())


def test_the_loss_refuses_a_configuration_without_lambda_and_weights_of_another_kind(config):
    batch = padded_batch()
    arguments = (batch.old, batch.log_prob, batch.advantages, batch.mask, "token-mean")
    with pytest.raises(ConfigError, match="R2VPOPolicyLossConfig"):
        adapter.r2vpo_policy_loss(*arguments, SimpleNamespace(policy_loss=PolicyLossConfig(loss_mode="r2vpo")))
    with pytest.raises(ConfigError, match="rollout_is"):
        adapter.r2vpo_policy_loss(*arguments, actor_config(config), batch.mask.float())


def test_lambda_reaches_the_loss_through_a_pickle(config):
    """Ray sends the loss to the workers as bytes."""
    batch = padded_batch()
    arguments = (batch.old, batch.log_prob, batch.advantages, batch.mask, "token-mean")
    losses = []
    for lam in (0.0, 5.0):
        loss_fn = pickle.loads(pickle.dumps(partial(ppo_loss, config=actor_config(config, lam))))
        losses.append(POLICY_LOSS_REGISTRY["r2vpo"](*arguments, loss_fn.keywords["config"])[0].item())
    variance = ratio_diagnostics(batch.log_prob - batch.old, batch.advantages, batch.mask)["ratio_variance"]
    assert losses[1] - losses[0] == pytest.approx(5.0 * variance, rel=1e-5)


# The sampler in TransferQueue.


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


def random_rollout(step, groups=PROMPTS, partition="train"):
    generator = torch.Generator().manual_seed(step)
    lengths = [[1 + (index + session) % 4 for session in range(GROUP)] for index in range(groups)]
    actions = [[torch.randint(ANSWERS, (n,), generator=generator) for n in group] for group in lengths]
    log_probs = [[-torch.rand(n, generator=generator) for n in group] for group in lengths]
    roll_out(step, actions, log_probs, torch.rand(groups, GROUP, generator=generator).tolist(), partition)


def fetch(keys, fields=None, partition="train"):
    return tq.kv_batch_get(keys=keys, partition_id=partition, select_fields=fields)


def steps_of(batch):
    return [tag["max_global_steps"] for tag in batch.tags]


def test_a_sample_is_utd_times_the_new_groups_whole_and_under_fresh_keys(queue):
    sampler = make_sampler(buffer_iterations=4, utd=2)
    random_rollout(1)
    batch, metrics = sampler.sample(1, "train", PROMPTS)
    assert len(batch) == 2 * PROMPTS * GROUP == len(set(batch.keys))
    assert metrics["training/replay/groups"] == PROMPTS
    sessions = {}
    for key in batch.keys:
        uid, session, index = key.rsplit("_", 2)
        assert "_" not in uid  # verl cuts a key at its first underscore
        assert index == "0"
        sessions.setdefault(uid, []).append(int(session))
    assert sorted(map(sorted, sessions.values())) == [list(range(GROUP))] * (2 * PROMPTS)
    assert list(fetch(batch.keys, ["uid"])["uid"]) == [key.rsplit("_", 2)[0] for key in batch.keys]
    assert not any(key.startswith("train-") for key in batch.keys)


def test_copies_hold_the_rollout_and_leave_it_untouched(queue):
    sampler = make_sampler(buffer_iterations=2, utd=1)
    random_rollout(1, groups=1)
    originals = [f"train-1-0_{session}_0" for session in range(GROUP)]
    before = fetch(originals)
    batch, _ = sampler.sample(1, "train", 1)
    order = [batch.keys.index(next(k for k in batch.keys if k.endswith(f"_{s}_0"))) for s in range(GROUP)]
    copies = fetch([batch.keys[i] for i in order])
    assert set(copies.keys()) == set(before.keys())
    for name in set(before.keys()) - {"uid"}:
        for old, new in zip(list(before[name]), list(copies[name]), strict=True):
            assert torch.equal(old, new) if isinstance(old, torch.Tensor) else old == new, name
    # What fit() does at the end of a step.
    tq.kv_clear(keys=batch.keys, partition_id="train")
    assert set(tq.kv_list("train")["train"]) == set(originals)
    assert list(fetch(originals, ["uid"])["uid"]) == ["train-1-0"] * GROUP


def test_the_buffer_is_first_in_first_out_over_iterations_and_uniform(queue):
    sampler = make_sampler(buffer_iterations=2, utd=2)
    seen = []
    for step in (1, 2, 3):
        random_rollout(step)
        batch, _ = sampler.sample(step, "train", PROMPTS)
        seen.append(sorted(set(steps_of(batch))))
        if step > 1:  # the buffer holds as many groups as are drawn: each of them once
            assert sorted(steps_of(batch)) == sorted([step - 1, step] * PROMPTS * GROUP)
        tq.kv_clear(keys=batch.keys, partition_id="train")
    assert seen == [[1], [1, 2], [2, 3]]
    left = {key.split("_")[0].split("-")[1] for key in tq.kv_list("train")["train"]}
    assert left == {"2", "3"}


def test_validation_is_left_to_verl(queue):
    sampler = make_sampler()
    random_rollout(1, groups=2, partition="val")
    batch, _ = sampler.sample(1, "val", 2)
    assert sorted(batch.keys) == sorted(f"val-1-{i}_{s}_0" for i in range(2) for s in range(GROUP))
    assert len(sampler.iterations) == 0


def test_the_draw_is_reproducible_and_follows_the_seed(queue):
    drawn = []
    for seed in (0, 0, 1):
        sampler = make_sampler(utd=2, seed=seed)
        random_rollout(1)
        batch, _ = sampler.sample(1, "train", PROMPTS)
        drawn.append([text.tolist() for text in fetch(batch.keys, ["responses"])["responses"]])
        empty()
    assert drawn[0] == drawn[1] != drawn[2]


# The trainer.


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
        data = fetch(batch.keys, ["prompts", "responses", "response_mask", "old_log_probs", "advantages"])
        shards = torch.arange(len(batch)).chunk(self.ranks)
        size = info["mini_batch_size"] // self.ranks
        metrics = {}
        for parts in zip(*[shard.split(size) for shard in shards], strict=True):
            append_to_dict(metrics, self._gradient_step(data, parts, info["global_batch_size"]))
        return {"metrics": metrics | {"mfu": [0.0]}}

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
        return {name: Metric.aggregate_dp([reported[name] for reported in by_rank]) for name in by_rank[0]}

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
