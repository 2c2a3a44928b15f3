"""Generated reward functions: right ones are called with the right values, wrong ones are named, and say what is wrong.

What a function must return follows from what it was given, worked out here from the numbers alone.
"""

import asyncio
import decimal
import fractions
import functools
import inspect
import math
import types

import numpy as np
import pytest
import torch
from adding_engine import AddingEngine, run
from hypothesis import given
from hypothesis import strategies as st

from r2vpo.errors import ConfigError, NoVerdicts, RewardError
from r2vpo.llm.evaluation.completions import read_groups
from r2vpo.llm.rewards import score
from r2vpo.llm.rewards.calling import check_columns, reward_list
from r2vpo.llm.rewards.exact import exact

WORTH = {"prompts": 1000, "completions": 100, "answer": 10, "level": 1}
"""What a digit given under each name adds to a reward: a value that went to another name shows."""
DIGITS = st.lists(st.tuples(*[st.integers(0, 9)] * 4), min_size=1, max_size=4)
SIZE = 3


def columns_of(digits):
    prompts, completions, answers, levels = ([row[i] for row in digits] for i in range(4))
    return list(map(str, prompts)), list(map(str, completions)), {"answer": list(map(str, answers)), "level": levels}


def scored(function, digits, **given):
    prompts, completions, columns = columns_of(digits)
    return score([("judge", function)], [1.0], prompts, completions, columns, **given)


def worth(given, names):
    size = len(next(iter(given.values())))
    return [float(sum(WORTH[name] * int(given[name][i]) for name in names)) for i in range(size)]


def judge_of(parameters, names):
    """A function of a signature, written out, that adds up what it finds under ``names``."""
    space = {"worth": worth}
    given = "{" + ", ".join(f"{name!r}: {name}" for name in names if name in parameters) + "}"
    rest = " | rest" if "**rest" in parameters else ""
    exec(f"def judge({parameters}):\n    return worth({given}{rest}, {names!r})", space)
    return space["judge"]


@st.composite
def signatures(draw):
    """A list of parameters, and the names among them that are read."""
    named = draw(st.permutations(sorted(WORTH)))[: draw(st.integers(1, 4))]
    parameters = [name + ("=None" if draw(st.booleans()) else "") for name in named]
    parameters.sort(key=lambda parameter: "=" in parameter)
    star = draw(st.sampled_from([None, "*", "*others"]))
    if star:
        parameters.insert(draw(st.integers(0, len(parameters) - (star == "*"))), star)
    parameters += draw(st.sampled_from([[], ["trainer_state"], ["completion_ids=None"]])) if star else []
    rest = draw(st.booleans())
    names = sorted(WORTH) if rest else named
    return ", ".join([*parameters, *(["**rest"] if rest else [])]), names


def as_method(function):
    return types.MethodType(lambda self, **given: function(**given), object())


def as_object(function):
    class Judge:
        __signature__ = inspect.signature(function)

        def __call__(self, *arguments, **given):
            return function(*arguments, **given)

    return Judge()


def as_module(function):
    class Judge(torch.nn.Module):
        def forward(self, prompts, completions, answer, level):
            given = {"prompts": prompts, "completions": completions, "answer": answer, "level": level}
            taken = inspect.signature(function).parameters
            rest = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
            state = {"trainer_state": None} if "trainer_state" in taken else {}
            return torch.tensor(function(**{n: v for n, v in given.items() if rest or n in taken}, **state))

    return Judge()


def as_coroutine(function):
    @functools.wraps(function)
    async def judge(*arguments, **given):
        await asyncio.sleep(0)
        return function(*arguments, **given)

    return judge


def as_decorated(function):
    @functools.wraps(function)
    def judge(*arguments, **given):
        return function(*arguments, **given)

    return judge


KINDS = {
    "function": lambda function: function,
    "partial": functools.partial,
    "partial of a partial": lambda function: functools.partial(functools.partial(function)),
    "object": as_object,
    "module": as_module,
    "coroutine": as_coroutine,
    "decorated": as_decorated,
}


@pytest.mark.parametrize("kind", KINDS)
@given(signature=signatures(), digits=DIGITS)
def test_every_parameter_gets_what_its_name_says(kind, signature, digits):
    parameters, names = signature
    batch = scored(KINDS[kind](judge_of(parameters, names)), digits)
    expected = [float(sum(WORTH[n] * row[list(WORTH).index(n)] for n in names)) for row in digits]
    assert (batch.errors, batch.by_function["judge"].tolist()) == ({}, expected), parameters


@given(digits=DIGITS)
def test_lambdas_and_methods_that_take_anything(digits):
    expected = [float(sum(map(lambda a, b: a * b, row, WORTH.values()))) for row in digits]
    for function in (lambda **given: worth(given, WORTH), as_method(lambda **given: worth(given, WORTH))):
        assert scored(function, digits).total.tolist() == expected


NAMES = st.from_regex("[a-z][a-z0-9]{0,9}", fullmatch=True).filter(
    lambda name: name not in WORTH and not hasattr(__builtins__, name) and name.isidentifier()
)


@pytest.mark.parametrize("kind", ["function", "partial", "object", "coroutine", "decorated"])
@given(
    signature=signatures(), wanted=NAMES.filter(lambda name: name not in ("rest", "others", "self", "is", "in", "if"))
)
def test_a_column_that_is_not_there_is_named_before_the_first_call(refused, kind, signature, wanted):
    parameters, names = signature
    try:
        function = KINDS[kind](judge_of(f"{wanted}, {parameters}", names))
    except SyntaxError:  # a keyword of Python
        return
    rows = [{"prompt": "1", "answer": "2", "level": 3}]
    for attempt in (lambda: check_columns("judge", function, rows, "prompt"), lambda: scored(function, [(1, 2, 3, 4)])):
        with pytest.raises(
            RewardError, match=rf"'judge' does not fit .*\(answer, level\): it needs {wanted};"
        ) as caught:
            attempt()
        refused(caught.value, kind, wanted, parameters, names=wanted)


def number_as(kind):
    """A number in the dress of many types, and the float it stands for."""
    whole = st.integers(-1000, 1000)
    exact_float = st.floats(-1e6, 1e6, width=32)
    dressed = {
        "int": whole,
        "float": exact_float,
        "bool": st.booleans(),
        "Fraction": whole.map(lambda n: fractions.Fraction(n, 4)),
        "Decimal": whole.map(decimal.Decimal),
        "numpy": exact_float.map(np.float32),
        "0-d array": exact_float.map(np.array),
        "tensor": exact_float.map(torch.tensor),
        "tensor with gradient": exact_float.map(lambda x: torch.tensor(x, requires_grad=True)),
        "nothing": st.sampled_from([None, math.nan, math.inf, -math.inf, np.float64("nan"), 10**400]),
    }
    return dressed[kind]


SCALARS = [
    "int",
    "float",
    "bool",
    "Fraction",
    "Decimal",
    "numpy",
    "0-d array",
    "tensor",
    "tensor with gradient",
    "nothing",
]
CONTAINERS = {
    "list": list,
    "tuple": tuple,
    "array of objects": lambda values: np.array([*values, None], dtype=object)[:-1],
    "values of a dict": lambda values: dict(enumerate(values)).values(),
}


def plain(value):
    if value is None or (isinstance(value, int) and abs(value) > 10**308):
        return math.nan
    number = float(value.item() if isinstance(value, torch.Tensor) else value)
    return number if math.isfinite(number) else math.nan


@pytest.mark.parametrize("kind", SCALARS)
@given(data=st.data())
def test_numbers_of_every_type_are_numbers_and_what_is_none_is_counted(kind, data):
    values = data.draw(st.lists(number_as(kind) | st.none(), min_size=SIZE, max_size=SIZE))
    expected = np.array([plain(value) for value in values])
    container = data.draw(
        st.sampled_from(list(CONTAINERS)[: 2 if "tensor" in kind else None])
    )  # NumPy takes no tensors
    batch = scored(lambda completions: CONTAINERS[container](values), [(1, 2, 3, 4)] * SIZE)
    np.testing.assert_array_equal(batch.by_function["judge"], expected)
    np.testing.assert_array_equal(batch.total, expected)
    assert batch.excluded == {"judge": int(np.isnan(expected).sum())}


@given(values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=SIZE, max_size=SIZE), gradient=st.booleans())
def test_arrays_and_tensors(values, gradient):
    for result in (np.array(values, np.float32), torch.tensor(values, requires_grad=gradient), torch.tensor(values)):
        assert scored(lambda completions, result=result: result, [(1, 2, 3, 4)] * SIZE).total.tolist() == values


NUMBERS = st.lists(st.floats(-9, 9), min_size=SIZE, max_size=SIZE)
UNUSABLE = {
    "another length": st.lists(st.floats(-9, 9), max_size=9).filter(lambda values: len(values) != SIZE),
    "an array of another length": st.integers(0, 9).filter(lambda size: size != SIZE).map(np.ones),
    "no list": st.none() | st.integers() | st.floats() | st.booleans() | st.complex_numbers(),
    "text": st.text(min_size=SIZE, max_size=SIZE) | st.binary(min_size=SIZE, max_size=SIZE),
    "a mapping": st.dictionaries(st.integers(), st.floats(-9, 9), min_size=SIZE, max_size=SIZE),
    "a set": st.sets(st.integers(), min_size=SIZE, max_size=SIZE),
    "a generator": NUMBERS.map(iter) | NUMBERS.map(lambda values: (value for value in values)) | NUMBERS.map(reversed),
    "no dimension": st.floats(-9, 9).map(np.array) | st.floats(-9, 9).map(torch.tensor),
    "two dimensions": NUMBERS.map(lambda v: np.array(v)[:, None]) | NUMBERS.map(lambda v: torch.tensor(v)[:, None]),
    "lists of numbers": NUMBERS.map(lambda values: [[value] for value in values]),
    "a function": st.sampled_from([len, print, object, type, object()]),
}


@pytest.mark.parametrize("kind", UNUSABLE)
@given(data=st.data())
def test_a_result_that_is_no_list_of_so_many_numbers_names_the_function(refused, kind, data):
    result = data.draw(UNUSABLE[kind])
    shown = repr(result) if "object at" not in repr(result) else kind
    with pytest.raises(RewardError, match=r"reward 'judge' (must return|returned)") as caught:
        scored(lambda completions: result, [(1, 2, 3, 4)] * SIZE)
    refused(caught.value, kind, shown)


NO_NUMBERS = (
    st.text(max_size=3)
    | st.floats().map(str)
    | st.binary(max_size=3)
    | st.lists(st.floats(), max_size=2)
    | st.complex_numbers()
    | st.dictionaries(st.text(max_size=2), st.integers(), max_size=2)
    | st.sampled_from([np.ones(1), torch.ones(1), torch.ones(2), (1.0,), {1.0}, len, bytearray(b"1"), 1j, ...])
)


@given(value=NO_NUMBERS, place=st.integers(0, SIZE - 1), others=NUMBERS)
def test_an_item_that_is_no_number_is_named_by_function_and_place(refused, value, place, others):
    results = [*others]
    results[place] = value
    with pytest.raises(
        RewardError, match=rf"'judge' must return numbers or None, got a \w+ for item {place}"
    ) as caught:
        scored(lambda completions: results, [(1, 2, 3, 4)] * SIZE)
    refused(caught.value, place, value)


class Ends(BaseException):
    """Not an Exception."""


EXCEPTIONS = [
    *(Ends, GeneratorExit, asyncio.CancelledError),
    *(ValueError, KeyError, StopIteration, StopAsyncIteration, ZeroDivisionError, AssertionError, OSError, MemoryError),
    *(
        RecursionError,
        SystemExit,
        UnicodeError,
        NotImplementedError,
        TimeoutError,
        AttributeError,
        ImportError,
        EOFError,
    ),
]


@pytest.mark.parametrize("kind", ["function", "coroutine", "object"])
@given(error=st.sampled_from(EXCEPTIONS), at=st.integers(0, 3), text=st.text(max_size=9))
def test_an_exception_at_the_nth_call_costs_that_call_alone(refused, kind, error, at, text):
    calls = []

    def judge(completions, answer):
        calls.append(len(completions))
        if len(calls) == at + 1:
            raise error(text)
        return [float(value) for value in answer]

    function, digits = KINDS[kind](judge), [(1, 2, 3, 4), (5, 6, 7, 8)]
    prompts, completions, columns = columns_of(digits)
    for number in range(5):
        functions = [("judge", function), ("other", exact)]
        batch = score(functions, [1.0, 0.0], prompts, completions, columns)
        assert batch.by_function["other"].tolist() == [0.0, 0.0]
        if number == at:
            assert error.__name__.split(".")[-1] in batch.errors["judge"] or "Stop" in error.__name__
            assert (batch.excluded["judge"], batch.valid.tolist()) == (2, [False, False])
            refused(RewardError(batch.errors["judge"]), kind, error.__name__, at, text)
        else:
            assert (batch.errors, batch.total.tolist()) == ({}, [3.0, 7.0])


def scramble(value):
    """Change whatever can be changed of what a function was given."""
    if isinstance(value, list):
        for item in value:
            scramble(item)
        value.clear()
    elif isinstance(value, dict):
        for item in value.values():
            scramble(item)
        value.clear()


NESTED = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(answers=st.lists(NESTED, min_size=SIZE, max_size=SIZE))
def test_what_a_function_does_to_its_arguments_is_seen_by_nobody(answers):
    before, seen = repr(answers), []
    chats = [[{"role": "user", "content": [{"type": "text", "text": str(i)}]}] for i in range(SIZE)]

    def destroys(**given):
        for value in given.values():
            scramble(value)
        return [0.0] * SIZE

    def reads(prompts, completions, answer):
        seen.append((repr(prompts), repr(answer)))
        return [float(completion[0]["content"]) for completion in completions]

    batch = score([("a", destroys), ("b", reads)], [1.0, 1.0], chats, ["1", "2", "3"], {"answer": answers})
    assert (batch.errors, batch.total.tolist()) == ({}, [1.0, 2.0, 3.0])
    assert seen == [(repr(chats), before)]
    assert repr(answers) == before


@given(wrong=st.integers() | st.none() | st.floats() | st.binary() | st.dictionaries(st.text(), st.integers()))
def test_what_is_no_function_is_refused_before_any_work(refused, wrong):
    for given_as in (wrong, [wrong], [exact, wrong], ("exact", wrong)):
        with pytest.raises(ConfigError, match=r"^reward_funcs=") as caught:
            reward_list(given_as)
        refused(caught.value, given_as)
    for kind in (dict, AddingEngine, []):
        with pytest.raises(ConfigError, match=r"^reward_funcs="):
            reward_list(kind)


@given(verdicts=st.lists(st.sampled_from([0.0, 1.0, None, math.nan, "raise"]), min_size=4, max_size=4))
def test_an_evaluation_counts_what_its_reward_said(refused, tmp_path_factory, verdicts):
    """Four batches of three problems of five answers; each batch is judged as drawn."""
    calls = []

    def judge(completions, **columns):
        calls.append(len(completions))
        verdict = verdicts[len(calls) - 1]
        if verdict == "raise":
            raise OSError("no network")
        return [verdict] * len(completions)

    file = tmp_path_factory.mktemp("fuzz") / "completions.jsonl"
    known = [value for value in verdicts if value in (0.0, 1.0)]
    if not any(value in (0.0, 1.0) for value in verdicts[:3]):
        with pytest.raises(NoVerdicts, match="'judge' had no verdict on 45 of 45") as caught:
            run(reward=judge, output=file, completions_at_once=15)
        refused(caught.value, "evaluation", verdicts, names="judge")
        assert sum(len(group) for group in read_groups(file)) == 45
        return
    result = run(reward=judge, output=file, completions_at_once=15)
    assert result.pass_at_k[1].value == pytest.approx(sum(known) / len(known))
    assert result.excluded == 15 * (4 - len(known))
    assert result.reward_errors == ({"judge": "OSError: no network"} if "raise" in verdicts else {})
