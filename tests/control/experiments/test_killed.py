"""Whatever is killed in the middle ends, once it goes on, as if nothing had happened."""

import signal

import pytest
from killing import iterations, send_when, start, without_times
from resuming import metrics

from r2vpo.cli import main
from r2vpo.runs.study import read_results

SMALL = {"num-envs": "2", "rollout-steps": "64", "minibatch-size": "32", "epochs": "1", "checkpoint-seconds": "0"}
FLAGS = " ".join(f"--{name} {value}" for name, value in SMALL.items())
WORDS = " ".join(f"{name.replace('-', '_')}={value}" for name, value in SMALL.items())
STUDY = (
    f"control study --env Pendulum-v1 --algos spo --seeds 2 --total-steps 12800 --episodes 2 --set {WORDS} --out OUT"
)
COMPARE = "control compare --env Pendulum-v1 --algos spo cispo --seeds 1 --total-steps 24576 --episodes 2 --out OUT"
COMMANDS = {
    "train": (
        f"control train --env Pendulum-v1 --seeds 2 --total-steps 12800 {FLAGS} --eval-episodes 2 --run-dir OUT",
        "control train --resume OUT",
    ),
    "compare": (COMPARE, COMPARE),
    "study": (STUDY, "control study --resume OUT"),
}


def words(command, out):
    return [*command.replace("OUT", str(out)).split(), "--quiet"]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_command_goes_on_to_the_same_end(tmp_path, name):
    first, again = COMMANDS[name]
    out, whole = tmp_path / "killed" / "out", tmp_path / "whole" / "out"
    process = start("-m", "r2vpo.cli", *words(first, out))
    send_when(process, signal.SIGKILL, lambda: len(iterations(out)) == 2 and iterations(out)[0] >= 3)
    killed_at = sum(iterations(out))
    with (out / "runs.jsonl").open("a") as file:
        file.write('{"algo": "spo", "seed": 0, "env": "Pend')  # a kill in the middle of a line
    assert main(words(again, out)) == 0

    assert main(words(first, whole)) == 0
    assert killed_at < sum(iterations(out)) == sum(iterations(whole))
    results = [without_times(read_results(folder / "runs.jsonl")) for folder in (out, whole)]
    assert len(results[0]) == 2
    assert results[0] == results[1]
    run_dirs = [path.parent.relative_to(whole) for path in whole.rglob("metrics.jsonl")]
    for run_dir in run_dirs:
        assert metrics(out / run_dir) == metrics(whole / run_dir)
