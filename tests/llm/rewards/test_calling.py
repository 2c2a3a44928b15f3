"""Any callable is called as TRL calls it: by keyword, with what it names, chats as chats."""

import asyncio
import functools
import logging

import numpy as np
import pytest

from r2vpo.errors import RewardError
from r2vpo.llm.rewards import TrainerState, make_reward, score
from r2vpo.llm.rewards.calling import check_columns, function_name, reward_names

PROMPTS, COMPLETIONS, ANSWERS = ["1+1=", "2+2="], ["2", "5"], ["2", "4"]
CHATS = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
RIGHT = [1.0, 0.0]


def run(function, prompts=PROMPTS, columns=None, **given):
    columns = {"answer": ANSWERS} if columns is None else columns
    return score([("f", function)], [1.0], prompts, COMPLETIONS, columns, **given)


def completions_first(completions, answer, **columns):
    return [float(c == a) for c, a in zip(completions, answer, strict=True)]


def answer_first(answer, completions, prompts, **columns):
    return [float(c == a and p[-1] == "=") for c, a, p in zip(completions, answer, prompts, strict=True)]


def nothing_else(answer, completions):
    return completions_first(completions, answer)


def named_alone(*, completions, answer):
    return completions_first(completions, answer)


def old_style(prompts, completions, answer, **columns):
    return answer_first(answer, completions, prompts)


def by_position(prompts, completions, /, **columns):
    return answer_first(columns["answer"], completions, prompts)


def other_names_by_position(questions, texts, /, answer):
    return answer_first(answer, texts, questions)


def everything(**columns):
    return answer_first(columns["answer"], columns["completions"], columns["prompts"])


def anything(*arguments, **columns):
    assert not arguments
    return everything(**columns)


async def asynchronous(completions, answer, **columns):
    await asyncio.sleep(0)
    return completions_first(completions, answer)


class Judge:
    def __call__(self, completions, answer, **columns):
        return completions_first(completions, answer)

    def method(self, completions, answer, **columns):
        return completions_first(completions, answer)

    @classmethod
    def of_class(cls, completions, answer):
        return completions_first(completions, answer)


class AsynchronousJudge:
    async def __call__(self, completions, answer, **columns):
        return completions_first(completions, answer)


@pytest.mark.parametrize(
    "function",
    [
        *(completions_first, answer_first, nothing_else, named_alone, old_style, everything, anything),
        *(by_position, other_names_by_position, asynchronous, Judge(), Judge().method, Judge.of_class),
        *(AsynchronousJudge(), functools.partial(asynchronous), functools.partial(functools.partial(Judge()))),
        functools.partial(completions_first, unused=1),
        lambda _, completions, **columns: completions_first(completions, columns["answer"]),
        lambda completions, answer: asynchronous(completions, answer),
    ],
    ids=function_name,
)
def test_whatever_can_be_called_gets_what_it_names(function):
    np.testing.assert_array_equal(run(function).by_function["f"], RIGHT)


def test_a_module_is_called_by_what_its_forward_takes():
    torch = pytest.importorskip("torch")

    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(2.0))

        def forward(self, completions):
            return self.scale * torch.tensor([float(text) for text in completions])

    class ReadsTokens(torch.nn.Module):
        def forward(self, input_ids=None, attention_mask=None):
            return input_ids

    np.testing.assert_array_equal(run(Linear()).total, [4.0, 10.0])
    assert function_name(Linear()) == "Linear"
    with pytest.raises(RewardError, match="reads tokens"):
        run(ReadsTokens())


def test_a_chat_is_answered_by_a_chat_and_a_text_by_a_text():
    seen = []

    def reward(prompts, completions, **columns):
        seen.append((prompts, completions))
        return [0.0] * len(completions)

    run(reward)
    run(reward, prompts=CHATS)
    run(reward, prompts=[CHATS[0], PROMPTS[1]])
    assert seen == [
        (PROMPTS, COMPLETIONS),
        (CHATS, [[{"role": "assistant", "content": "2"}], [{"role": "assistant", "content": "5"}]]),
        ([CHATS[0], PROMPTS[1]], [[{"role": "assistant", "content": "2"}], "5"]),
    ]


@pytest.mark.parametrize("name", ["exact", "number", "math_dapo"])
def test_own_verifiers_judge_chats_like_texts(name):
    reward = make_reward(name)
    np.testing.assert_array_equal(run(reward).total, run(reward, prompts=CHATS).total)
    assert run(make_reward("exact"), prompts=CHATS).total.tolist() == RIGHT


def test_what_trl_passes_beside_the_columns():
    def reward(completions, completion_ids, trainer_state, log_metric, log_extra, **columns):
        assert set(columns) == {"prompts", "answer"}
        log_metric("steps", trainer_state.global_step)
        log_extra("ids", completion_ids)
        return [len(ids) for ids in completion_ids]

    batch = run(reward, completion_ids=[np.array([3, 4]), np.array([5])], trainer_state=TrainerState(7, 10))
    assert batch.total.tolist() == [2.0, 1.0]
    assert batch.logged == {"steps": [7.0]}
    assert batch.extra == {"ids": [[3, 4], [5]]}


def test_the_rewards_of_trl():
    pytest.importorskip("math_verify")
    rewards = pytest.importorskip("trl.rewards")
    texts = [r"\boxed{\frac{1}{3}}", r"\boxed{\frac{1}{2}}"]
    columns = {"solution": [r"$\frac{1}{3}$"] * 2}
    batch = score([("f", rewards.accuracy_reward)], [1.0], CHATS, texts, columns)
    assert batch.errors == {}
    assert batch.total.tolist() == [1.0, 0.0]
    scaled = rewards.get_cosine_scaled_reward(max_len=100)
    batch = score([("f", scaled)], [1.0], CHATS, texts, columns, completion_ids=[[1] * 50] * 2)
    np.testing.assert_allclose(batch.total, [0.75, -0.75])
    assert function_name(scaled) == "cosine_scaled_reward"


@pytest.mark.parametrize(
    ("function", "missing"),
    [
        (lambda completions, solution, **columns: [], "solution"),
        (lambda solution, completions, **columns: [], "solution"),
        (lambda prompts, solution: [], "solution"),
        (lambda prompts, completions, /, solution: [], "solution"),
        (lambda p, c, **columns: [], "p, c"),
        (lambda completions, completion_ids: [], "completion_ids"),
    ],
)
def test_what_a_function_needs_and_is_not_there_is_named_and_nothing_takes_its_place(function, missing):
    with pytest.raises(RewardError, match=rf"'f' does not fit .*\(answer\): it needs {missing};"):
        run(function)


def test_columns_are_checked_before_the_first_call():
    rows = [{"prompt": "1+1="}, {"prompt": "2+2=", "answer": "4"}]
    check_columns("f", completions_first, rows, "prompt")
    check_columns("f", lambda completions, completion_ids, trainer_state: [], rows, "prompt")
    with pytest.raises(RewardError, match=r"dataset \(prompt\): it needs answer"):
        check_columns("f", completions_first, rows, "answer")


def test_an_async_function_that_raises_is_noted_like_any_other(caplog):
    async def fails(completions):
        raise KeyError("an async message")

    with caplog.at_level(logging.CRITICAL):
        batch = run(fails)
    assert batch.errors == {"f": "KeyError: 'an async message'"}
    assert batch.excluded == {"f": 2}


def test_async_functions_run_side_by_side_also_inside_an_event_loop():
    reached = [asyncio.Event(), asyncio.Event()]

    async def meets(place, completions):
        reached[place].set()
        await asyncio.wait_for(reached[1 - place].wait(), timeout=30)
        return [1.0] * len(completions)

    functions = [(f"f{place}", functools.partial(meets, place)) for place in (0, 1)]

    async def notebook():
        return score(functions, [1.0, 1.0], PROMPTS, COMPLETIONS, {})

    assert asyncio.run(notebook()).total.tolist() == [2.0, 2.0]


def test_names():
    judge = Judge()
    functions = [completions_first, functools.partial(completions_first, a=1), judge, judge.method, lambda x: x]
    assert [function_name(function) for function in functions] == [
        *("completions_first", "completions_first", "Judge", "method", "<lambda>")
    ]
    assert reward_names(["exact", judge, judge.method, Judge(), lambda x: x, lambda x: x]) == (
        *("exact", "Judge", "method", "Judge_2", "<lambda>", "<lambda>_2"),
    )
