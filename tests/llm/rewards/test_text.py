"""Rewards that only read text: what counts as the answer, and that no text takes long."""

import time

import pytest

from r2vpo.errors import RewardError
from r2vpo.llm.rewards.exact import answer_format, boxed_format, exact, number, think_format
from r2vpo.llm.rewards.math_dapo import math_dapo, math_dapo_strict, normalize_answer
from r2vpo.llm.rewards.numbers import last_number
from r2vpo.llm.rewards.text import completion_text, last_answer_line, last_boxed

MEGABYTE = 1_000_000
HUGE = [
    "{" * MEGABYTE,
    "\\boxed{" + "{" * MEGABYTE,
    "\\boxed{" * (MEGABYTE // 7),
    "\\boxed{" + "{}" * (MEGABYTE // 2),
    "}" * MEGABYTE,
    "\\" * MEGABYTE,
    "9" * MEGABYTE,
    "1," * (MEGABYTE // 2),
    "1,000" + ",000" * (MEGABYTE // 4) + "0",
    "Answer:" + "\n" * MEGABYTE,
    "Answer: " * (MEGABYTE // 8),
    "answer" + " " * MEGABYTE,
    "<think>" * (MEGABYTE // 7),
    "$" * MEGABYTE,
    "\\frac{" * (MEGABYTE // 6),
]


def call(function, completion, answer=None, prompt="p"):
    columns = {} if answer is None else {"answer": [answer]}
    (value,) = function([prompt], [completion], unknown_column=[1], **columns)
    return value


def test_a_chat_is_the_content_of_its_last_assistant_message():
    chat = [
        {"role": "assistant", "content": "Answer: 1"},
        {"role": "tool", "content": "Answer: 2"},
        {"role": "assistant", "content": [{"type": "text", "text": "Answer:"}, {"type": "text", "text": " 3"}]},
    ]
    assert completion_text(chat) == "Answer: 3"
    assert completion_text([{"role": "assistant", "content": None}]) == ""
    assert completion_text([]) == ""
    assert call(math_dapo, chat, "3") == 1.0


@pytest.mark.parametrize("wrong", [None, 3, ["text"], [{"role": "assistant", "content": 3}]])
def test_other_completions_are_refused(wrong):
    with pytest.raises(RewardError, match="must be text or a list"):
        completion_text(wrong)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("\\boxed{1} and \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}} so", "\\frac{1}{2}"),
        ("\\boxed{\\left\\{ x \\right.}", "\\left\\{ x \\right."),
        ("\\boxed{\\boxed{3}}", "3"),
        ("\\boxed{}", ""),
        ("\\boxed{1", None),
        ("\\boxed{1} then \\boxed{{2}", None),
        ("\\boxed 1", None),
        ("", None),
    ],
)
def test_last_boxed(text, content):
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1 then 2", 2),
        ("costs $1,234.50.", 1234.5),
        ("12,34", None),
        ("range 3-5", None),
        ("x = -5", -5),
        ("x = \u2212.5", -0.5),
        ("+7", 7),
        ("\\frac{1}{2}-3", None),
        ("\u0663\u0664", None),  # Arabic-Indic digits
        ("\uff11\uff12", None),  # full-width digits
        ("none", None),
        ("", None),
    ],
)
def test_last_number(text, found):
    assert last_number(text) == found


@pytest.mark.parametrize(
    ("completion", "answer", "value"),
    [
        ("so 1,000", "1000.0", 1.0),
        ("so 71, no: 72", "He bakes 3 * 24 = 72 #### 72", 1.0),
        ("so 72, no: 71", "72", 0.0),
        ("0.1", 0.1, 1.0),
        ("", "72", 0.0),
        ("\u0667\u0662", "72", 0.0),
        ("72", "", None),
        ("72", "seventy-two", None),
    ],
)
def test_number_compares_the_last_number_by_value(completion, answer, value):
    assert call(number, completion, answer) == value


def test_exact_compares_stripped_text():
    assert call(exact, "  Paris\n", "Paris") == 1.0
    assert call(exact, "It is Paris", "Paris") == 0.0
    assert call(exact, "", "Paris") == 0.0
    assert exact(["p"] * 3, ["", "", ""], answer=[None, "", "  "]) == [None, None, None]


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("Answer: 34", 1.0),
        ("answer :  $34$", 1.0),
        ("Answer: 12\nno wait\nAnswer: 34", 1.0),
        ("Answer: 34\nno wait\nAnswer: 12", -1.0),
        ("The prompt said 'Answer: 34' and I say\nAnswer: 35", -1.0),
        ("\\boxed{34}", -1.0),
        ("34", -1.0),
        ("Answer:", -1.0),
        ("Answer: 34" + "." * 290, -1.0),  # the answer line is everything up to the end
        ("Answer: 34\n" + "." * 289, 1.0),  # 10 + 1 + 289 = 300 characters
        ("Answer: 34\n" + "." * 290, -1.0),  # now the A is out of sight
        ("", -1.0),
    ],
)
def test_math_dapo_takes_the_last_answer_of_the_last_300_characters(completion, value):
    assert call(math_dapo, completion, "34") == value


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("\\boxed{34}", 1.0),
        ("\\boxed{12} or \\boxed{34}", 1.0),
        ("\\boxed{34} or \\boxed{12}", -1.0),
        ("\\boxed{34}" + "." * 90, 1.0),
        ("\\boxed{34}" + "." * 91, -1.0),
        ("\\boxed{34", -1.0),
        ("Answer: 34", -1.0),
    ],
)
def test_strict_math_dapo_takes_the_last_box_of_the_last_100_characters(completion, value):
    assert call(math_dapo_strict, completion, "34") == value


@pytest.mark.parametrize("truth", [None, "", "  "])
@pytest.mark.parametrize("function", [math_dapo, math_dapo_strict, number, exact])
def test_no_ground_truth_is_no_verdict(function, truth):
    assert function(["p"], ["Answer: 1"], answer=[truth]) == [None]


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("x = 5", "5"),
        ("$\\frac12$", "\\frac{1}{2}"),
        ("\\sqrt2", "\\sqrt{2}"),
        ("1,234,567", "1234567"),
        ("(1,2)", "(1,2)"),
        ("12\\text{ cm}^2", "12"),
        ("90^\\circ", "90"),
        ("90^{\\circ}", "90"),
        ("10 dollars", "10"),
        ("\\$10", "10"),
        ("\\text{Tuesday}", "Tuesday"),
        ("\\textbf{(B)}", "(B)"),
        ("the value is $3$.", "3"),
        ("1{,}000", "1000"),
        ("x\\text{ and }y", "x,y"),
        ("an apple", "apple"),
        ("\\left(1, 2\\right)", "(1,2)"),
        ("\\leftarrow", "\\leftarrow"),
        ("", ""),
    ],
)
def test_minerva_normalisation(written, normal):
    assert normalize_answer(written) == normal


def test_formats():
    assert call(boxed_format, "so \\boxed{1}") == 1.0
    assert [call(boxed_format, text) for text in ("\\boxed{}", "\\boxed{1", "1", "")] == [0.0] * 4
    assert call(answer_format, "ANSWER: 1") == 1.0
    assert [call(answer_format, text) for text in ("Answer:", "Answer: \n", "1", "")] == [0.0] * 4
    assert call(think_format, " <think>a</think>\n1") == 1.0
    bad = [
        "<think>a</think>",
        "1<think>a</think>1",
        "<think>a 1",
        "a</think>1",
        "<think>a</think><think>b</think>1",
        "",
    ]
    assert [call(think_format, text) for text in bad] == [0.0] * len(bad)


def test_a_prompt_that_opens_the_thought_is_continued():
    assert call(think_format, "a</think>1", prompt="question\n<think>\n") == 1.0
    assert call(think_format, "<think>a</think>1", prompt="question\n<think>\n") == 0.0


@pytest.mark.parametrize("text", HUGE, ids=[text[:9] for text in HUGE])
def test_a_megabyte_of_anything_is_read_in_linear_time(text):
    start = time.perf_counter()
    last_boxed(text), last_answer_line(text), last_number(text), normalize_answer(text[-300:])
    for function in (math_dapo, math_dapo_strict, exact, number):
        call(function, text, "5")
    for function in (boxed_format, answer_format, think_format):
        call(function, text)
    assert time.perf_counter() - start < 10.0  # quadratic time would be hours


def test_a_megabyte_of_braces_takes_milliseconds():
    start = time.perf_counter()
    assert last_boxed("\\boxed{" + "{" * MEGABYTE) is None
    assert last_boxed("\\boxed{" + "{" * MEGABYTE + "}" * MEGABYTE + "}") is not None
    assert time.perf_counter() - start < 0.5
