"""What is stored of an iteration, how it is unpacked, cut into batches and padded."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from r2vpo.llm.engines.base import Completion
from r2vpo.llm.experience import all_samples, collate, pack, padding_fraction, token_micro_batches, unpack
from r2vpo.replay import ReplayBuffer


def completion(*tokens):
    return Completion(np.array(tokens, dtype=np.int32), -0.1 * np.array(tokens, dtype=np.float32), True, 0)


def iteration(offset=0):
    return pack(
        [[1, 2, 3], [4]], [0, 0, 1], [completion(5 + offset, 6), completion(7), completion(8, 9, 10)], [1.0, -1.0, 0.5]
    )


def test_pack_and_unpack_are_inverse():
    samples = unpack(iteration(), age=2)
    assert [sample.prompt.tolist() for sample in samples] == [[1, 2, 3], [1, 2, 3], [4]]
    assert [sample.tokens.tolist() for sample in samples] == [[5, 6], [7], [8, 9, 10]]
    assert [sample.advantage for sample in samples] == [1.0, -1.0, 0.5]
    assert all(sample.age == 2 for sample in samples)
    np.testing.assert_allclose(samples[2].old_log_probs, [-0.8, -0.9, -1.0], rtol=1e-6)
    assert len(samples[0]) == 5


def test_sampled_tokens_take_eight_bytes_each_and_a_prompt_is_stored_once_a_group():
    stored = iteration()
    assert stored["tokens"].nbytes + stored["old_log_probs"].nbytes == 8 * 6
    assert stored["prompt_tokens"].nbytes == 4 * 4


def test_buffer_hands_out_samples_in_the_order_of_its_positions_with_their_ages():
    buffer = ReplayBuffer(2)
    for offset in (0, 100, 200):
        buffer.add(iteration(offset), 3)
    samples = all_samples(buffer)
    assert [int(sample.tokens[0]) for sample in samples] == [105, 7, 8, 205, 7, 8]
    assert [sample.age for sample in samples] == buffer.ages().tolist() == [1, 1, 1, 0, 0, 0]


def test_collate_right_pads_and_masks_what_was_not_sampled():
    samples = unpack(iteration(), age=1)
    batch = collate(samples[1:], pad=0, weights=[2.0, 0.5])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 7], [4, 8, 9, 10]]
    assert batch["completion_mask"].tolist() == [[False, False, False, True], [False, True, True, True]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]
    assert batch["advantage"].tolist() == [[0, 0, 0, -1.0], [0, 0.5, 0.5, 0.5]]
    assert batch["weight"].tolist() == [[0, 0, 0, 2.0], [0, 0.5, 0.5, 0.5]]
    short = collate(samples[:2], pad=63)
    assert short["input_ids"].tolist() == [[1, 2, 3, 5, 6], [1, 2, 3, 7, 63]]
    assert short["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    torch.testing.assert_close(short["old_log_prob"][1], torch.tensor([0, 0, 0, -0.7, 0]))
    assert "weight" not in short
    weighted = [replace(sample, weights=torch.full((len(sample.tokens),), 0.5)) for sample in samples[1:]]
    assert collate(weighted, pad=0)["advantage"].tolist() == [[0, 0, 0, -0.5], [0, 0.25, 0.25, 0.25]]


def test_every_sequence_is_in_exactly_one_batch_and_batches_keep_to_the_budget():
    lengths = np.random.default_rng(0).integers(1, 50, size=200)
    batches = token_micro_batches(lengths, 100)
    assert sorted(np.concatenate(batches)) == list(range(200))
    assert all(len(batch) * lengths[batch].max() <= 100 for batch in batches)


def test_sequences_of_like_length_share_a_batch():
    lengths = [3, 30, 3, 30, 3, 30]
    batches = [sorted(batch.tolist()) for batch in token_micro_batches(lengths, 90)]
    assert batches == [[1, 3, 5], [0, 2, 4]]
    assert padding_fraction(lengths, token_micro_batches(lengths, 90)) == 0.0


def test_sequence_longer_than_the_budget_stands_alone():
    assert [batch.tolist() for batch in token_micro_batches([5, 200, 5], 20)] == [[1], [0, 2]]


def test_padding_is_counted():
    # One batch of 10 and 6 tokens is 20 tokens wide, 4 of them padding.
    assert padding_fraction([10, 6], [np.array([0, 1])]) == pytest.approx(0.2)


def test_sorting_keeps_padding_small_where_lengths_vary():
    lengths = np.random.default_rng(1).geometric(0.01, size=512)
    assert padding_fraction(lengths, token_micro_batches(lengths, 8192)) < 0.15
    assert padding_fraction(lengths, [np.arange(512)]) > 0.6
