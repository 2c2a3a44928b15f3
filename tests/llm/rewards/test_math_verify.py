"""Symbolic comparison: equal mathematics is equal, and no completion executes, hangs or silently scores 0."""

import time

import pytest

from r2vpo.llm.rewards import make_reward

pytest.importorskip("math_verify")

LIMIT = 1.0


@pytest.fixture(scope="module")
def reward():
    made = make_reward("math_verify", workers=2, timeout_seconds=10.0)
    yield made
    made.close()


def verdicts(reward, completions, answers):
    return reward(["prompt"] * len(completions), completions, answer=answers, source=["x"] * len(completions))


EQUAL = [
    ("\\boxed{0.5}", "\\frac{1}{2}"),
    ("So $x = \\dfrac{1}{2}$.", "1/2"),
    ("The answer is 1,000.", "1000"),
    ("\\boxed{2\\sqrt{2}}", "\\sqrt{8}"),
    ("\\boxed{(x+1)^2}", "x^2+2x+1"),
    ("\\boxed{\\{2, 1\\}}", "\\{1,2\\}"),
    ("\\boxed{[0, 1)}", "[0,1)"),
    ("\\boxed{3} no, \\boxed{5}", "5"),
    ("\\boxed{3}. Wait, so it is \\boxed{5}. Done, 7 checks.", "5"),
    ("Answer: 3. No wait. Answer: 5", "5"),
    ("\\boxed{5}", "$5$"),
    ("\\boxed{5}", "\\boxed{5}"),
    ("\\boxed{5}", 5),
    ([{"role": "assistant", "content": "\\boxed{5}"}], "5"),
]
DIFFERENT = [
    ("\\boxed{0.51}", "\\frac{1}{2}"),
    ("\\boxed{5} no, \\boxed{3}", "5"),
    ("The prompt says Answer: 5. I say \\boxed{6}", "5"),
    ("I do not know", "5"),
    ("", "5"),
    ("\\boxed{}", "5"),
    ("\\boxed{5", "6"),
    ("{" * 1_000_000, "5"),
    ("\\boxed{" * 1000, "5"),
]


def test_equal_and_different_answers(reward):
    pairs = EQUAL + DIFFERENT
    values = verdicts(reward, [completion for completion, _ in pairs], [answer for _, answer in pairs])
    assert {str(pair): value for pair, value in zip(pairs, values, strict=True)} == {
        **{str(pair): 1.0 for pair in EQUAL},
        **{str(pair): 0.0 for pair in DIFFERENT},
    }


def test_without_a_ground_truth_there_is_no_verdict(reward):
    before = reward.reasons.copy()
    assert verdicts(reward, ["\\boxed{5}"] * 4, [None, "", "  ", "5"]) == [None, None, None, 1.0]
    assert (reward.reasons - before) == {"no ground truth": 3}


def test_only_the_end_of_a_long_completion_is_read(reward):
    long = "\\boxed{4} " + "word " * 200_000
    assert verdicts(reward, [long + "\\boxed{5}", long], ["5", "4"]) == [1.0, 0.0]


BOMBS = [
    "\\boxed{9^{9^{9^9}}}",
    "\\boxed{9^{-9^{9^9}}}",
    "\\boxed{(10^{9})!}",
    "\\boxed{10**10**10}",
    "10**10**10",
    "$" + "\\frac{1}{" * 1000 + "2" + "}" * 1000 + "$",
    "$" + "\\sqrt{" * 1000 + "2" + "}" * 1000 + "$",
    "\\boxed{" + "(" * 5000 + "1" + ")" * 5000 + "}",
    "\\boxed{(x+y+z)^{900}}",
    "\\boxed{\\sum_{n=1}^{10^{10}} \\sqrt{n}}",
    "9" * 1_000_000,
    "\\boxed{" + "9" * 1_000_000 + "}",
    "1 000 " * 3000,
    "$" * 20_000,
]


def test_bombs_are_bounded_in_time_and_never_right():
    """Each ends within its limit as wrong or as no verdict; the workers outlive them."""
    bounded = make_reward("math_verify", workers=2, timeout_seconds=LIMIT)
    try:
        start = time.monotonic()
        values = verdicts(bounded, [*BOMBS, "\\boxed{5}"], ["5"] * (len(BOMBS) + 1))
        elapsed = time.monotonic() - start
    finally:
        bounded.close()
    assert set(values[:-1]) <= {0.0, None}
    assert values[0] is None
    assert values[-1] == 1.0
    assert bounded.reasons["time-out"] >= 1
    assert elapsed < len(BOMBS) * (LIMIT + 3.0) + 10.0


INJECTIONS = [
    "__import__('os').system('touch {path}')",
    "open('{path}', 'w')",
    "\\operatorname{{open}}('{path}', 'w')",
    "\\text{{__import__('os').system('touch {path}')}}",
    "().__class__.__base__.__subclasses__()",
]


@pytest.mark.parametrize("form", ["\\boxed{{{}}}", "${}$", "Answer: {}", "{}"])
def test_an_answer_that_is_code_is_not_executed(reward, form, tmp_path):
    path = tmp_path / "made"
    completions = [form.format(injection.format(path=path)) for injection in INJECTIONS]
    values = verdicts(reward, completions, ["5"] * len(completions))
    assert set(values) <= {0.0, None}
    assert not path.exists()


def test_code_as_a_ground_truth_is_not_executed_either(reward, tmp_path):
    path = tmp_path / "made"
    truths = [injection.format(path=path) for injection in INJECTIONS]
    verdicts(reward, ["\\boxed{5}"] * len(truths), truths)
    assert not path.exists()
