"""The arithmetic task: right answers, splits that never meet, one fixed held-out set."""

import hashlib
import subprocess
import sys

import pytest

from r2vpo.envs.arithmetic import SPLIT_PERCENT, ArithmeticTask, arithmetic_rows
from r2vpo.errors import ConfigError


def test_answers_are_the_sums():
    for row in arithmetic_rows("train", 200):
        numbers = row["prompt"].removesuffix("=").split("+")
        assert len(numbers) == 4
        assert row["answer"] == str(sum(map(int, numbers)))


def test_splits_share_no_problem_and_leave_none_out():
    splits = {split: [row["prompt"] for row in arithmetic_rows(split)] for split in SPLIT_PERCENT}
    everything = [prompt for prompts in splits.values() for prompt in prompts]
    assert len(everything) == len(set(everything)) == len(ArithmeticTask()) == 10_000
    for split, percent in SPLIT_PERCENT.items():
        assert len(splits[split]) / 10_000 == pytest.approx(percent / 100, abs=0.01)


def test_seed_orders_the_training_problems_only():
    assert arithmetic_rows("train", seed=1) != arithmetic_rows("train", seed=2)
    assert arithmetic_rows("test", seed=1) == arithmetic_rows("test", seed=2)
    assert {r["prompt"] for r in arithmetic_rows("train", seed=1)} == {r["prompt"] for r in arithmetic_rows("train")}


def test_same_seed_gives_the_same_order_and_a_limit_its_beginning():
    rows = arithmetic_rows("train", seed=3)
    assert arithmetic_rows("train", seed=3) == rows
    assert arithmetic_rows("train", 7, seed=3) == rows[:7]


def test_held_out_set_never_changes():
    # A changed hash would move problems that earlier models were trained on into the held-out set.
    prompts = sorted(row["prompt"] for row in arithmetic_rows("test"))
    digest = hashlib.sha256(" ".join(prompts).encode()).hexdigest()[:16]
    assert (len(prompts), digest) == (911, "1e113b1791abfa4a")


@pytest.mark.parametrize(("operands", "highest", "count"), [(2, 9, 100), (3, 4, 125), (5, 1, 32)])
def test_size_of_other_tasks(operands, highest, count):
    task = ArithmeticTask(operands, highest)
    prompts = {task.problem(i)["prompt"] for i in range(len(task))}
    assert len(task) == len(prompts) == count
    assert all(len(prompt.split("+")) == operands for prompt in prompts)


@pytest.mark.parametrize(
    ("field", "arguments"), [("operands", (1, 9)), ("highest", (4, 0)), ("operands", (8, 9)), ("operands", (30, 9))]
)
def test_sizes_out_of_range(field, arguments):
    with pytest.raises(ConfigError) as error:
        ArithmeticTask(*arguments)
    assert error.value.field == field


def test_unknown_split_names_the_known_ones():
    with pytest.raises(ConfigError, match="test, validation, train"):
        arithmetic_rows("dev")


def test_needs_no_torch():
    code = "import sys, r2vpo.envs.arithmetic; sys.exit('torch' in sys.modules or 'gymnasium' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
