"""Names of rewards, and their sum: what has no verdict is excluded, counted and never a silent 0."""

import logging
import math
import subprocess
import sys

import numpy as np
import pytest

from r2vpo.errors import ConfigError, RewardError
from r2vpo.llm.rewards import REWARDS, make_reward, score


def constant(*values):
    def reward(prompts, completions, **columns):
        return list(values)

    return reward


def with_option(prompts, completions, scale=1.0, **columns):
    return [scale * len(text) for text in completions]


def without_columns(prompts, completions, scale=1.0):
    return [scale] * len(completions)


class Configured:
    def __init__(self, value):
        self.value = value

    def __call__(self, prompts, completions, **columns):
        return [self.value] * len(completions)


not_callable = 3


def run(*functions, weights=None, columns=None, size=3):
    weights = [1.0] * len(functions) if weights is None else weights
    named = [(f"f{i}", function) for i, function in enumerate(functions)]
    return score(named, weights, ["p"] * size, ["c"] * size, columns or {})


def test_total_is_the_weighted_sum():
    batch = run(constant(1, 2.5, True), constant(np.float32(2), -1, 0), weights=[0.5, 2.0])
    np.testing.assert_array_equal(batch.total, [0.5 + 4.0, 1.25 - 2.0, 0.5])
    assert batch.total.dtype == np.float64
    assert batch.valid.all()
    assert batch.excluded == {"f0": 0, "f1": 0}
    np.testing.assert_array_equal(batch.by_function["f1"], [2.0, -1.0, 0.0])


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, -math.inf, 10**400, np.float64("nan")])
def test_no_verdict_excludes_the_item_and_is_counted(missing):
    batch = run(constant(1.0, missing, 0.0), constant(1.0, 1.0, None), constant(0.0, 0.0, 0.0))
    np.testing.assert_array_equal(batch.valid, [True, False, False])
    np.testing.assert_array_equal(batch.total, [2.0, np.nan, np.nan])
    assert batch.excluded == {"f0": 1, "f1": 1, "f2": 0}
    assert np.isnan(batch.by_function["f0"][1])


def test_a_function_of_weight_zero_excludes_nothing():
    batch = run(constant(1.0, 2.0, 3.0), constant(None, None, None), weights=[1.0, 0.0])
    assert batch.valid.all()
    np.testing.assert_array_equal(batch.total, [1.0, 2.0, 3.0])
    assert batch.excluded == {"f0": 0, "f1": 3}


def test_a_function_that_raises_has_no_verdicts_and_is_logged_once(caplog):
    def fails(prompts, completions, **columns):
        raise ZeroDivisionError("a message of this test alone")

    with caplog.at_level(logging.ERROR):
        batches = [run(fails, constant(1, 1, 1)) for _ in range(3)]
    for batch in batches:
        assert batch.excluded == {"f0": 3, "f1": 0}
        assert batch.errors == {"f0": "ZeroDivisionError: a message of this test alone"}
        assert not batch.valid.any()
    assert len([record for record in caplog.records if "a message of this test alone" in record.message]) == 1


def test_numbers_that_are_not_finite_are_warned_about_once(caplog):
    def endless(completions):
        return [math.inf, None, 1.0]

    with caplog.at_level(logging.WARNING):
        batches = [score([("endless", endless)], [1.0], ["p"] * 3, ["c"] * 3, {}) for _ in range(3)]
    assert all(batch.excluded == {"endless": 2} for batch in batches)
    assert [record.message for record in caplog.records] == [
        "reward 'endless' returned NaN or an infinite number; such items count as without a verdict"
    ]


def test_a_function_that_exits_has_no_verdicts_and_ends_nothing():
    def leaves(completions):
        raise SystemExit(0)

    async def leaves_async(completions):
        raise SystemExit(0)

    batch = run(leaves, leaves_async, constant(1, 1, 1))
    assert batch.errors == {"f0": "RuntimeError: SystemExit: 0", "f1": "RuntimeError: SystemExit: 0"}
    assert batch.excluded == {"f0": 3, "f1": 3, "f2": 0}


def test_what_one_function_changes_the_next_one_gets_whole():
    def destroys(completions, prompts, answer):
        for given in (prompts, answer):
            given.clear()
        completions[0][0]["content"] = "other"
        return [0.0] * 2

    def reads(completions, prompts, answer):
        return [
            float(c[0]["content"] == a == p[0]["content"]) for c, p, a in zip(completions, prompts, answer, strict=True)
        ]

    chats, answers = [[{"role": "user", "content": text}] for text in ("1", "2")], ["1", "2"]
    batch = score([("a", destroys), ("b", reads)], [1.0, 1.0], chats, ["1", "2"], {"answer": answers})
    assert batch.by_function["b"].tolist() == [1.0, 1.0]
    assert answers == ["1", "2"]


def test_an_error_of_the_library_stops_the_call():
    def fails(prompts, completions, **columns):
        raise RewardError("the pool is closed")

    with pytest.raises(RewardError, match="pool is closed"):
        run(fails)


@pytest.mark.parametrize("result", [[1.0], [1.0] * 4, []])
def test_a_result_of_the_wrong_length_names_function_and_lengths(result):
    with pytest.raises(RewardError, match=rf"'f1' returned {len(result)} results for 3 completions"):
        run(constant(1, 1, 1), constant(*result))


@pytest.mark.parametrize("value", ["1", b"1", [1.0], {}, 1j, object()])
def test_a_result_that_is_no_number_names_function_and_type(value):
    with pytest.raises(RewardError, match=rf"'f0'.*{type(value).__name__} for item 1"):
        run(constant(1.0, value, 1.0))


@pytest.mark.parametrize("result", [None, 1.0, "abc", b"abc", iter([1, 1, 1]), {0: 1, 1: 1, 2: 1}, {1, 2, 3}])
def test_a_result_that_is_no_list(result):
    with pytest.raises(RewardError, match=rf"'f0' must return a list.*{type(result).__name__}"):
        run(lambda prompts, completions, **columns: result)


def test_a_tensor_is_a_list_of_numbers():
    torch = pytest.importorskip("torch")
    batch = run(lambda prompts, completions, **columns: torch.tensor([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(batch.total, [1.0, 2.0, 3.0])


def test_a_missing_column_is_named():
    with pytest.raises(RewardError, match=r"'f0' does not fit.*\(question\).*answer"):
        run(make_reward("exact"), columns={"question": ["q"] * 3})


def test_a_column_of_the_wrong_length_is_named():
    with pytest.raises(RewardError, match="'answer' has 2 rows for 3"):
        run(make_reward("exact"), columns={"answer": ["1", "2"]})


def test_unknown_columns_are_ignored_by_every_shipped_function():
    columns = {"answer": ["1"] * 2, "difficulty": [3, 4]}
    for name in ("math_dapo", "math_dapo_strict", "exact", "number", "boxed_format", "answer_format", "think_format"):
        batch = score(
            [(name, make_reward(name))], [1.0], ["p"] * 2, ["c", [{"role": "assistant", "content": "c"}]], columns
        )
        assert batch.valid.all(), name


def test_an_empty_batch():
    batch = run(constant(), size=0)
    assert batch.total.shape == batch.valid.shape == (0,)


@pytest.mark.parametrize("weights", [[], [1.0, 2.0], [math.nan], [math.inf]])
def test_weights_must_fit(weights):
    with pytest.raises(ConfigError, match="one finite number for each of f0"):
        run(constant(1, 1, 1), weights=weights)


def test_names_must_be_unique():
    with pytest.raises(ConfigError, match="a name of its own"):
        score([("a", constant(1)), ("a", constant(1))], [1.0, 1.0], ["p"], ["c"], {})
    with pytest.raises(ConfigError, match="at least one"):
        score([], [], ["p"], ["c"], {})


def test_every_name_can_be_made():
    for name in REWARDS:
        if name in ("math_verify", "reasoning_gym"):
            pytest.importorskip(name)
        assert callable(make_reward(name))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"'math_dapp'.*one of math_dapo, math_dapo_strict, math_verify, exact"):
        make_reward("math_dapp")


def test_a_function_of_the_user():
    here = __name__
    assert make_reward(f"{here}:with_option")(["p"], ["abc"]) == [3.0]
    assert make_reward(f"{here}:with_option", scale=2.0)(["p"], ["abc"]) == [6.0]
    assert make_reward(f"{here}:without_columns", scale=2.0)(["p"], ["abc"]) == [2.0]
    assert make_reward(f"{here}:Configured", value=4.0)(["p"], ["abc"]) == [4.0]


def test_a_function_of_a_file(tmp_path):
    path = tmp_path / "my_rewards_of_this_test.py"
    path.write_text("class Judge:\n    @staticmethod\n    def f(completions):\n        return [7.0]\n\nf = Judge.f\n")
    assert make_reward(f"{path}:f")(["abc"]) == make_reward(f"{path}:Judge.f")(["abc"]) == [7.0]
    path.write_text("1 / 0")
    with pytest.raises(ConfigError, match="ZeroDivisionError: division by zero"):
        make_reward(f"{path}:f")


@pytest.mark.parametrize(
    "path", ["no_such_module_x:f", "math:no_such_function", ":f", "math:", "no_such_file.py:f", "math:f."]
)
def test_a_function_that_cannot_be_imported(path):
    with pytest.raises(ConfigError, match="can be imported"):
        make_reward(path)


def test_a_function_that_cannot_be_called():
    with pytest.raises(ConfigError, match="a function or a class"):
        make_reward(f"{__name__}:not_callable")


@pytest.mark.parametrize("name", ["exact", "math_dapo", "boxed_format", f"{__name__}:without_columns"])
def test_an_unknown_option_is_refused(name):
    with pytest.raises(ConfigError, match="strict"):
        make_reward(name, strict=True)


@pytest.mark.parametrize(
    "option",
    [
        {"workers": 0},
        {"timeout_seconds": 0.0},
        {"timeout_seconds": math.inf},
        {"memory_bytes": 1},
        {"max_characters": 0},
    ],
)
@pytest.mark.parametrize("name", ["math_verify", "reasoning_gym"])
def test_options_outside_their_range(name, option):
    pytest.importorskip(name)
    with pytest.raises(ConfigError) as caught:
        make_reward(name, **option)
    assert caught.value.field == next(iter(option))


def test_importing_rewards_and_the_worker_is_light():
    code = (
        "import sys, r2vpo.llm.rewards, r2vpo.llm.rewards.verifier.worker\n"
        "heavy = {'torch', 'numpy', 'sympy', 'transformers', 'math_verify', 'reasoning_gym'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
