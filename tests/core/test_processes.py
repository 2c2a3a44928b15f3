"""Minibatches shared by several processes, played in one: each call of a method waits for its turn."""

import threading

import torch

from r2vpo.dual import DualController
from r2vpo.objectives import make_objective
from r2vpo.update import PolicyUpdater, Scored


class Meeting:
    """Two threads that add up what they bring."""

    def __init__(self):
        self.barrier = threading.Barrier(2, timeout=20)
        self.brought = {}

    def member(self, rank):
        meeting = self

        class Processes:
            def _together(self, values):
                meeting.brought[rank] = values.clone()
                meeting.barrier.wait()
                everything = [meeting.brought[0], meeting.brought[1]]
                meeting.barrier.wait()
                return everything

            def sum(self, values):
                return torch.stack(self._together(values)).sum(0)

            def concatenate(self, values):
                return torch.cat(self._together(values))

        return Processes()


def updater(processes=None):
    parameter = torch.nn.Parameter(torch.tensor([0.3, -0.2]))

    def score(batch):
        return Scored((batch["x"] * parameter).sum(-1), batch["old"], batch["advantage"])

    optimizer = torch.optim.SGD([parameter], lr=0.1)
    dual = DualController(1.0, 0.1, rule="adaptive")
    return PolicyUpdater(make_objective("r2vpo"), dual, optimizer, score, 1e9, processes=processes), parameter


def batches():
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "x": torch.randn(n, 2, generator=generator),
            "old": torch.randn(n, generator=generator) * 0.1,
            "advantage": torch.randn(n, generator=generator),
        }
        for n in (3, 5)
    ]


def in_two_threads(work):
    meeting, results = Meeting(), {}

    def run(rank):
        results[rank] = work(rank, meeting.member(rank))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(results) == [0, 1], "a process failed or waits for an exchange that the other does not take part in"
    return results


def test_sharing_a_minibatch_changes_neither_step_nor_lambda_nor_diagnostics():
    alone, parameter = updater()
    assert alone.step(batches(), 8)
    expected = alone.summary()

    def work(rank, processes):
        mine, shared = updater(processes)
        taken = mine.step([batches()[rank]], 8)
        return taken, shared.detach().clone(), mine.dual.lam, mine.summary()

    for taken, shared, lam, summary in in_two_threads(work).values():
        assert taken
        torch.testing.assert_close(shared, parameter.detach())
        assert abs(lam - alone.dual.lam) < 1e-9
        for name in ("ratio_variance", "ess", "max_ratio", "grad_norm"):
            assert abs(summary[name] - expected[name]) < 1e-6, name


def test_a_process_without_micro_batches_takes_the_same_step():
    alone, parameter = updater()
    alone.step(batches()[:1], 3)

    def work(rank, processes):
        mine, shared = updater(processes)
        mine.step(batches()[:1] if rank == 0 else [], 3)
        return shared.detach().clone(), mine.summary()["ratio_variance"]

    expected = alone.summary()["ratio_variance"]
    for shared, variance in in_two_threads(work).values():
        torch.testing.assert_close(shared, parameter.detach())
        assert abs(variance - expected) < 1e-6


def test_what_is_not_finite_in_one_process_stops_the_step_in_all():
    def work(rank, processes):
        mine, shared = updater(processes)
        batch = batches()[rank]
        if rank == 1:
            batch["advantage"][0] = float("nan")
        return mine.step([batch], 8), shared.detach().clone(), mine.log.skipped

    for taken, shared, skipped in in_two_threads(work).values():
        assert not taken
        assert skipped == 1
        assert shared.tolist() == torch.tensor([0.3, -0.2]).tolist()


def test_weights_scale_the_loss_of_each_element():
    def gradient(weight):
        mine, parameter = updater()
        batch = batches()[0]
        score = mine.score

        def weighted(micro_batch):
            scored = score(micro_batch)
            scored.weight = weight
            return scored

        mine.score = weighted
        before = parameter.detach().clone()
        mine.step([batch], 3)
        return before - parameter.detach()

    first_only = gradient(torch.tensor([3.0, 0.0, 0.0]))
    rest_only = gradient(torch.tensor([0.0, 3.0, 3.0]))
    torch.testing.assert_close(first_only + rest_only, 3 * gradient(None), rtol=1e-5, atol=1e-6)
