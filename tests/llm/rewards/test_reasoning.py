"""reasoning-gym: every task's own answer scores as its dataset says, and an answer cannot execute anything."""

import functools
import json

import pytest

from r2vpo.errors import RewardError
from r2vpo.llm.rewards import make_reward
from r2vpo.llm.rewards.reasoning import extract_answer

reasoning_gym = pytest.importorskip("reasoning_gym")

TASKS = ["chain_sum", "leg_counting", "arc_agi", "string_insertion", "spiral_matrix", "binary_matrix", "n_queens"]
SYMPY_TASKS = ["countdown", "puzzle24", "polynomial_multiplication", "simple_integration", "intermediate_integration"]


@functools.cache
def entry(task):
    return reasoning_gym.create_dataset(task, size=1, seed=1)[0]


@pytest.fixture(scope="module")
def reward():
    made = make_reward("reasoning_gym", workers=2, timeout_seconds=10.0)
    yield made
    made.close()


def score(reward, completions, entries, **columns):
    return reward(["prompt"] * len(completions), completions, entry=entries, **columns)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer> 1 </answer> then <answer>2</answer>", "2"),
        ("<answer>1</answer> <answer>2", "1"),
        ("</answer><answer>1</answer>", "1"),
        ("<think>\\boxed{1}</think> so \\boxed{2}", "2"),
        ("<think>Answer: 1</think>\nAnswer: 2\n", "2"),
        ("<think>1</think>\n 2 ", "2"),
        ("<answer>" * 100_000, "<answer>" * 100_000),
        ("", ""),
    ],
)
def test_the_answer_of_a_completion(text, answer):
    assert extract_answer(text) == answer


def test_the_answer_of_the_dataset_scores_one_as_json_and_as_dict(reward):
    entries = [entry(task) for task in TASKS + SYMPY_TASKS]
    completions = [f"<think>hm</think><answer>{item['answer']}</answer>" for item in entries]
    assert score(reward, completions, [json.dumps(item) for item in entries]) == [1.0] * len(entries)
    assert score(reward, completions, entries, task=TASKS + SYMPY_TASKS) == [1.0] * len(entries)


def test_wrong_and_empty_answers(reward):
    assert score(reward, ["<answer>999999</answer>", ""], [entry("chain_sum")] * 2) == [0.0, 0.0]


def test_a_list_spelled_out_still_gets_its_partial_credit(reward):
    """The verifier evaluates it; the guarded evaluation must not turn that into 0."""
    item = entry("spiral_matrix")
    spelled = str([int(number) for number in item["answer"].split()])
    assert score(reward, [f"<answer>{spelled}</answer>"], [item]) == [0.1]


def test_an_answer_that_is_code_is_not_executed(reward, tmp_path):
    path = tmp_path / "made"
    for attack in (f"__import__('os').system('touch {path}')", f"open('{path}', 'w')"):
        entries = [entry(task) for task in TASKS + SYMPY_TASKS]
        values = score(reward, [f"<answer>{attack}</answer>"] * len(entries), entries)
        assert all(value is None or value <= 0.05 for value in values)
    assert not path.exists()


def test_an_endless_evaluation_is_no_verdict():
    bounded = make_reward("reasoning_gym", workers=1, timeout_seconds=1.0)
    try:
        values = score(bounded, ["<answer>9**9**9**9</answer>", "<answer>0</answer>"], [entry("countdown")] * 2)
    finally:
        bounded.close()
    assert values[0] is None
    assert values[1] is not None
    assert bounded.reasons == {"time-out": 1}


def test_an_unknown_task_is_no_verdict(reward):
    assert score(reward, ["1"], [entry("chain_sum")], task=["no_such_task"]) == [None]
    assert reward.reasons["ValueError"] >= 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "answer and metadata"),
        ({"answer": "1"}, "answer and metadata"),
        ({"answer": "1", "metadata": {}}, "metadata.source_dataset"),
    ],
)
def test_an_entry_that_is_none(reward, wrong, message):
    with pytest.raises(RewardError, match=message):
        score(reward, ["1"], [wrong])
