"""Processes on a gloo group: sums and joined values are those of one process that has everything."""

import subprocess
import sys

import pytest
import torch

from r2vpo.processes import TorchProcesses

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
