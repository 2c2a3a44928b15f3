import pytest
import torch

from r2vpo.errors import ConfigError
from r2vpo.replay import ReplayBuffer
from r2vpo.runs.checkpoint import load_tree, save_tree


def filled(capacity=3, sizes=(4, 2, 5)):
    buffer = ReplayBuffer(capacity)
    for i, size in enumerate(sizes):
        buffer.add({"old_log_prob": torch.full((size,), float(i))}, size)
    return buffer


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(buffer, batch_size, num_batches, seed=0):
    return list(buffer.minibatches(batch_size, num_batches, seeded(seed)))


def contents(buffer):
    return [iteration["old_log_prob"][0].item() for iteration in buffer.iterations]


def test_first_in_first_out():
    buffer = filled(capacity=3, sizes=(4, 2, 5, 1, 3))
    assert contents(buffer) == [2.0, 3.0, 4.0]
    assert buffer.sizes == (5, 1, 3)
    assert len(buffer) == 9


@pytest.mark.parametrize(("capacity", "fills"), [(4, [0, 1 / 3, 2 / 3, 1, 1]), (1, [1, 1])])
def test_fill_goes_from_the_newest_alone_to_the_whole_buffer(capacity, fills):
    for count, fill in enumerate(fills, 1):
        assert filled(capacity, sizes=(2,) * count).fill == pytest.approx(fill)


def test_capacity_one_holds_only_the_newest_data():
    buffer = filled(capacity=1)
    assert contents(buffer) == [2.0]
    assert (buffer.ages() == 0).all()
    assert torch.cat(draw(buffer, 5, 1)).sort().values.tolist() == [0, 1, 2, 3, 4]


def test_ages_count_back_from_the_newest():
    buffer = filled(capacity=3, sizes=(4, 2, 5))
    assert buffer.ages().tolist() == [2] * 4 + [1] * 2 + [0] * 5
    buffer.add({"old_log_prob": torch.zeros(1)}, 1)
    assert buffer.ages().tolist() == [2] * 2 + [1] * 5 + [0]
    assert buffer.ages().dtype == torch.int64


def test_one_pass_draws_each_sample_once():
    batches = draw(filled(sizes=(4, 2, 6)), batch_size=3, num_batches=4)
    assert [len(batch) for batch in batches] == [3] * 4
    assert torch.cat(batches).sort().values.tolist() == list(range(12))


@pytest.mark.parametrize(("batch_size", "num_batches"), [(3, 11), (4, 7), (11, 3), (30, 2), (1, 5)])
def test_samples_are_drawn_equally_often_up_to_one(batch_size, num_batches):
    batches = draw(filled(), batch_size, num_batches)
    assert [len(batch) for batch in batches] == [batch_size] * num_batches
    counts = torch.cat(batches).bincount(minlength=11)
    assert counts.max() - counts.min() <= 1


def test_a_minibatch_is_uniform_over_all_ages():
    buffer = filled(sizes=(4, 2, 6))
    first = torch.cat([draw(buffer, 3, 1, seed)[0] for seed in range(2000)])
    counts = first.bincount(minlength=12).double()
    chi_square = ((counts - 500) ** 2 / 500).sum()
    assert chi_square < 31.3  # 99.9 % quantile at 11 degrees of freedom
    assert chi_square > 0


def test_passes_are_shuffled_afresh():
    first, second = torch.cat(draw(filled(), 11, 2)).split(11)
    assert first.tolist() != second.tolist()


def test_order_follows_the_generator():
    def order(seed):
        return torch.cat(draw(filled(), 4, 5, seed)).tolist()

    torch.manual_seed(1)
    before = order(7)
    torch.manual_seed(2)
    assert order(7) == before
    assert order(8) != before


def test_no_minibatches_asked_for():
    assert draw(filled(), 4, 0) == []


def test_state_survives_a_checkpoint(tmp_path):
    original = filled(capacity=3, sizes=(4, 2, 5, 1))
    save_tree(tmp_path / "buffer", original.state_dict())
    restored = ReplayBuffer(7)
    restored.add({"other": torch.zeros(9)}, 9)
    restored.load_state_dict(load_tree(tmp_path / "buffer"))

    assert contents(restored) == contents(original)
    assert restored.sizes == original.sizes
    assert torch.equal(torch.cat(draw(restored, 4, 5)), torch.cat(draw(original, 4, 5)))
    for buffer in (original, restored):
        buffer.add({"old_log_prob": torch.full((3,), 4.0)}, 3)
    assert contents(restored) == contents(original) == [2.0, 3.0, 4.0]


def test_what_was_stored_is_what_comes_back():
    buffer = ReplayBuffer(2)
    iteration = {"old_log_prob": torch.arange(3.0)}
    buffer.add(iteration, 3)
    iteration["old_log_prob"] = torch.zeros(3)
    assert buffer.iterations[0]["old_log_prob"].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("capacity", [0, -1, 1.5, True, "4"])
def test_capacity_outside_its_range(capacity):
    with pytest.raises(ConfigError, match=r"buffer_iterations=.*whole number of at least 1"):
        ReplayBuffer(capacity)


def test_an_iteration_without_samples_is_refused():
    with pytest.raises(ValueError, match="at least 1 sample"):
        ReplayBuffer(2).add({}, 0)


def test_drawing_from_an_empty_buffer_is_refused():
    with pytest.raises(ValueError, match="empty"):
        draw(ReplayBuffer(2), 4, 1)
