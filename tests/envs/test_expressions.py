"""Expressions worked out a step at a time: every step is right, splits never meet, the held-out set is fixed."""

import hashlib
import re

import pytest

from r2vpo.envs.expressions import LARGEST, ExpressionTask, expression_rows, worked_out, written
from r2vpo.errors import ConfigError
from r2vpo.llm.rewards.registry import make_reward


def value(text):
    assert re.fullmatch(r"[0-9+*()-]+", text)
    return eval(text)


def test_every_step_keeps_the_value_and_carries_out_one_operation():
    for row in expression_rows("train", 300):
        texts = [row["prompt"].removesuffix("="), *row["worked"].split("=")]
        assert [value(text) for text in texts] == [int(row["answer"])] * 6
        assert [len(re.findall("[+*-]", text)) for text in texts] == [5, 4, 3, 2, 1, 0]
        assert all(0 <= int(number) <= LARGEST for text in texts for number in re.findall(r"\d+", text))
        assert 20 <= len(row["worked"]) <= 60


@pytest.mark.parametrize(
    ("expression", "text", "steps"),
    [
        (("-", 9, ("-", 5, 3)), "9-(5-3)", ["9-2", "7"]),
        (("-", ("-", 9, 5), 3), "9-5-3", ["4-3", "1"]),
        (("*", ("+", 1, 2), ("*", 3, 4)), "(1+2)*(3*4)", ["3*(3*4)", "3*12", "36"]),
        (("+", 1, ("*", 2, 3)), "1+2*3", ["1+6", "7"]),
    ],
)
def test_brackets_stand_where_they_are_needed_and_the_first_operation_comes_first(expression, text, steps):
    assert written(expression) == text
    assert [written(step) for step in worked_out(expression)] == steps


def test_only_the_last_number_is_verified():
    (row,) = expression_rows("test", 1)
    steps = row["worked"].split("=")
    wrong = "=".join([*steps[:-1], str(int(steps[-1]) + 1)])
    texts = [row["worked"], f"={steps[-1]}", wrong, "=".join(steps[:-1]), ""]
    rewards = make_reward("number")([row["prompt"]] * 5, texts, answer=[row["answer"]] * 5)
    assert rewards[:3] + rewards[4:] == [1.0, 1.0, 0.0, 0.0]


def test_splits_share_no_problem_and_only_training_depends_on_the_seed():
    splits = {split: {row["prompt"] for row in expression_rows(split, 200)} for split in ("test", "validation")}
    trained = [{row["prompt"] for row in expression_rows("train", 400, seed=seed)} for seed in (0, 1)]
    assert [len(prompts) for prompts in (*splits.values(), *trained)] == [200, 200, 400, 400]
    assert trained[0] != trained[1]
    assert not splits["test"] & (splits["validation"] | trained[0] | trained[1])
    assert not splits["validation"] & (trained[0] | trained[1])
    assert expression_rows("test", 50, seed=1) == expression_rows("test", 50) == expression_rows("test", 60)[:50]


def test_held_out_set_never_changes():
    digest = hashlib.sha256(" ".join(row["prompt"] for row in expression_rows("test")).encode()).hexdigest()[:16]
    assert digest == "a3062f88356f61bc"


@pytest.mark.parametrize("operands", [3, 13])
def test_sizes_out_of_range(operands):
    with pytest.raises(ConfigError, match="from 4"):
        ExpressionTask(operands)


def test_an_unknown_split_is_refused():
    with pytest.raises(ConfigError, match="test, validation, train"):
        expression_rows("dev")
