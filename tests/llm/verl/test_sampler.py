"""The replay buffer behind verl's sampler interface, in TransferQueue."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("verl")
pytest.importorskip("transfer_queue")

import transfer_queue as tq
from verl_local import ANSWERS, GROUP, PROMPTS, empty, fetch, make_sampler, roll_out


def random_rollout(step, groups=PROMPTS, partition="train"):
    generator = torch.Generator().manual_seed(step)
    lengths = [[1 + (index + session) % 4 for session in range(GROUP)] for index in range(groups)]
    actions = [[torch.randint(ANSWERS, (n,), generator=generator) for n in group] for group in lengths]
    log_probs = [[-torch.rand(n, generator=generator) for n in group] for group in lengths]
    roll_out(step, actions, log_probs, torch.rand(groups, GROUP, generator=generator).tolist(), partition)


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
