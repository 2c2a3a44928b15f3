"""Minibatches that several processes share: played in one, where each call waits for its turn, and on gloo."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from r2vpo.advantages import standardised
from r2vpo.dual import DualController
from r2vpo.objectives import make_objective
from r2vpo.processes import TorchProcesses, usable_cores
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


def updater(processes=None, objective="r2vpo"):
    parameter = torch.nn.Parameter(torch.tensor([0.3, -0.2]))

    def score(batch):
        return Scored((batch["x"] * parameter).sum(-1), batch["old"], batch["advantage"])

    optimizer = torch.optim.SGD([parameter], lr=0.1)
    dual = DualController(1.0, 0.1, rule="adaptive")
    return PolicyUpdater(make_objective(objective), dual, optimizer, score, 1e9, processes=processes), parameter


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


@pytest.mark.parametrize("objective", ["r2vpo", "m2po"])  # which ranks the elements of all processes
def test_sharing_a_minibatch_changes_neither_step_nor_lambda_nor_diagnostics(objective):
    alone, parameter = updater(objective=objective)
    assert alone.step(batches(), 8)
    expected = alone.summary()

    def work(rank, processes):
        mine, shared = updater(processes, objective)
        taken = mine.step([batches()[rank]], 8)
        return taken, shared.detach().clone(), mine.dual.lam, mine.summary()

    for taken, shared, lam, summary in in_two_threads(work).values():
        assert taken
        torch.testing.assert_close(shared, parameter.detach())
        assert abs(lam - alone.dual.lam) < 1e-9
        for name in ("ratio_variance", "ess", "max_ratio", "grad_norm"):
            assert abs(summary[name] - expected[name]) < 1e-6, name


@pytest.mark.parametrize(("sizes", "passes"), [([8], 1), ([3, 5], 2), ([1, 6, 1], 2)])
def test_an_objective_that_ranks_the_minibatch_takes_one_step_however_it_is_cut(sizes, passes):
    """Scored once where there is one micro-batch, and before that without gradients where there are several."""
    whole = {name: torch.cat([batch[name] for batch in batches()]) for name in batches()[0]}
    mine, parameter = updater(objective="m2po")
    log_ratio = (whole["x"] @ parameter).detach() - whole["old"]
    [bound] = mine.objective.measured(log_ratio, whole["advantage"]).values()
    outliers = (whole["advantage"] * log_ratio > 0) & (log_ratio.square() > bound)
    assert 0 < outliers.sum() < (whole["advantage"] * log_ratio > 0).sum()
    weight = torch.where(outliers, 0.0, log_ratio.exp() * whole["advantage"])
    expected = parameter.detach() + 0.1 * (weight[:, None] * whole["x"]).mean(0)

    score, graphs = mine.score, []

    def counted(micro_batch):
        graphs.append(torch.is_grad_enabled())
        return score(micro_batch)

    mine.score = counted
    parts = zip(*(values.split(sizes) for values in whole.values()), strict=True)
    assert mine.step([dict(zip(whole, part, strict=True)) for part in parts], 8)
    torch.testing.assert_close(parameter.detach(), expected)
    assert graphs == [False] * len(sizes) * (passes - 1) + [True] * len(sizes)


@pytest.mark.parametrize("objective", ["r2vpo", "m2po"])
def test_a_process_without_micro_batches_takes_the_same_step(objective):
    alone, parameter = updater(objective=objective)
    alone.step(batches(), 8)

    def work(rank, processes):
        mine, shared = updater(processes, objective)
        mine.step(batches() if rank == 0 else [], 8)
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


def test_standardising_together_is_standardising_everything():
    values = torch.tensor([1.0, 2.0, 3.0, 6.0])
    parts = in_two_threads(lambda rank, processes: standardised(values[:1] if rank == 0 else values[1:], processes))
    torch.testing.assert_close(torch.cat([parts[0], parts[1]]), standardised(values))


def test_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert usable_cores() == 2


WORK = """
import sys, torch
from r2vpo.processes import TorchProcesses
rank, init_file, output = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.distributed.init_process_group("gloo", init_method=f"file://{init_file}", rank=rank, world_size=2)
processes = TorchProcesses()
mine = torch.tensor([1.0, 2.0]) * (rank + 1)
ages = torch.arange(3) + 10 if rank == 0 else torch.zeros(0)
torch.save(
    {
        "sum": processes.sum(mine),
        "scalar": processes.sum(torch.tensor(rank + 1)),
        "transposed": processes.sum(torch.arange(6.0).view(2, 3).t()),
        "mine": mine,
        "joined": processes.concatenate(torch.full((rank + 1,), rank + 0.1)),
        "uneven": processes.concatenate(ages),
        "nothing": processes.concatenate(torch.zeros(0)),
        "identity": (processes.rank, processes.count),
    },
    output,
)
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    outputs = [folder / f"{rank}.pt" for rank in range(2)]
    running = [
        subprocess.Popen([sys.executable, "-c", WORK, str(rank), str(folder / "init"), str(outputs[rank])])
        for rank in range(2)
    ]
    assert [process.wait(120) for process in running] == [0, 0]
    return [torch.load(output) for output in outputs]


def test_sums_are_over_the_processes_and_leave_the_inputs_alone(found):
    for rank, values in enumerate(found):
        assert values["sum"].tolist() == [3.0, 6.0]
        assert values["scalar"].item() == 3
        assert torch.equal(values["transposed"], 2 * torch.arange(6.0).view(2, 3).t())
        assert values["mine"].tolist() == [rank + 1.0, 2 * (rank + 1.0)]
        assert values["identity"] == (rank, 2)


def test_values_are_joined_in_the_order_of_the_ranks_and_keep_their_bits(found):
    for values in found:
        assert torch.equal(values["joined"], torch.tensor([0.1, 1.1, 1.1]))
        assert values["uneven"].tolist() == [10, 11, 12]
        assert len(values["nothing"]) == 0
    assert found[0]["uneven"].dtype == torch.int64


def test_without_a_process_group_the_error_says_what_to_call():
    with pytest.raises(RuntimeError, match="init_process_group"):
        TorchProcesses()
