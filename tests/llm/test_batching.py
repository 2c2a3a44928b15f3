import numpy as np
import pytest

from r2vpo.llm.experience import padding_fraction, token_micro_batches


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
