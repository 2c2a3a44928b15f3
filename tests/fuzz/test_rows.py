"""Generated datasets: what is right arrives as it was written, what is wrong is named by row and column or line.

Expectations are made beside the data, from the values that went in.
"""

import io
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2vpo.errors import ConfigError
from r2vpo.llm.data.prompts import row_tokens
from r2vpo.llm.data.rows import as_rows, load_rows, with_prompts
from r2vpo.llm.models.tiny_tokenizer import make_tokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"]) | TEXT, "content": TEXT},
    optional={"name": TEXT, "tool_calls": st.just([])},
) | st.fixed_dictionaries(
    {
        "role": st.just("user"),
        "content": st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}), min_size=1),
    }
)
PROMPT = TEXT | st.lists(MESSAGE, min_size=1, max_size=3)
PROMPT_COLUMNS = {"prompt": "prompt", "problem": "prompt", "question": "prompt", "My Text": "My Text", "0": "0"}
ANSWER_COLUMNS = {"answer": "answer", "solution": "answer", "ground_truth": "answer", "gold": "gold", "1": "1"}


@st.composite
def datasets(draw, answers=JSON):
    """Rows, the names of their columns, and what has to become of each: prompt and ground truth."""
    prompt_column = draw(st.sampled_from(list(PROMPT_COLUMNS)))
    answer_column = draw(st.sampled_from(list(ANSWER_COLUMNS)))
    wanted = draw(st.lists(st.tuples(PROMPT, answers, JSON), min_size=1, max_size=4))
    rows = [{prompt_column: prompt, answer_column: answer, "level": extra} for prompt, answer, extra in wanted]
    return rows, PROMPT_COLUMNS[prompt_column], ANSWER_COLUMNS[answer_column], wanted


def arrived(rows, prompt_column):
    return [(row[prompt_column], row["answer"], row["level"]) for row in rows]


@pytest.mark.parametrize(
    "form", [list, iter, tuple, lambda rows: (row for row in rows)], ids=["list", "iter", "tuple", "stream"]
)
@given(dataset=datasets(JSON | st.just(math.nan)))
def test_rows_in_memory_arrive_as_they_are(form, dataset):
    rows, prompt_column, answer_column, wanted = dataset
    before = repr(rows)
    got = arrived(with_prompts(as_rows(form(rows)), prompt_column, answer_column), prompt_column)
    assert repr(got) == repr([(p, None if a is math.nan else a, x) for p, a, x in wanted])
    assert repr(rows) == before


@given(dataset=datasets(st.text(max_size=5) | st.integers(-99, 99)))
def test_a_data_frame_arrives_as_its_rows(dataset):
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    rows, prompt_column, answer_column, wanted = dataset
    frame = pandas.DataFrame([{name: row[name] for name in [*row][:2]} for row in rows])
    got = with_prompts(as_rows(frame), prompt_column, answer_column)
    assert [(row[prompt_column], row["answer"]) for row in got] == [(p, a) for p, a, _ in wanted]


def in_file(answer):
    return str(answer) if isinstance(answer, int | float) else answer


LINES = {
    "plain": lambda lines: "\n".join(lines).encode(),
    "byte order mark": lambda lines: b"\xef\xbb\xbf" + "\n".join(lines).encode() + b"\n",
    "Windows": lambda lines: "".join(line + "\r\n" for line in lines).encode(),
    "blank lines": lambda lines: ("\n \n\t\n" + "\n\n".join(lines) + "\n\n").encode(),
    "spaces": lambda lines: "".join(f"  {line}\t\n" for line in lines).encode(),
}


@pytest.mark.parametrize("written", LINES)
@given(dataset=datasets(), ascii_only=st.booleans())
def test_json_lines_arrive_as_they_were_written(tmp_path_factory, written, dataset, ascii_only):
    rows, prompt_column, answer_column, wanted = dataset
    path = tmp_path_factory.getbasetemp() / "rows.jsonl"
    path.write_bytes(LINES[written]([json.dumps(row, ensure_ascii=ascii_only) for row in rows]))
    got = load_rows(str(path), prompt_column=prompt_column, answer_column=answer_column)
    assert arrived(got, "prompt") == [(prompt, in_file(answer), extra) for prompt, answer, extra in wanted]
    path = path.with_suffix(".json")
    path.write_text(json.dumps(rows, ensure_ascii=ascii_only), encoding="utf-8-sig")
    assert load_rows(str(path), prompt_column=prompt_column, answer_column=answer_column) == got


TEXT_PART = {"type": "text", "text": "1"}
NO_CONTENT = [
    None,
    3,
    math.nan,
    b"1",
    {},
    [],
    [None],
    [3],
    [{"type": "image", "image": "a.png"}],
    [{"text": 1}],
    "\ud800",
]
NO_PROMPTS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.binary(max_size=4)
    | st.text(" \t\n\u3000", max_size=3)
    | TEXT.map(lambda text: text + "\udc80")
    | st.lists(TEXT, max_size=2)
    | st.lists(st.integers(), min_size=1, max_size=3)
    | st.dictionaries(TEXT, TEXT, max_size=2)
    | st.lists(st.lists(MESSAGE, min_size=1, max_size=1), min_size=1, max_size=1)
    | st.sampled_from(NO_CONTENT).map(lambda content: [{"role": "user", "content": content}])
    | st.sampled_from([None, 3, b"user", ["user"]]).map(lambda role: [{"role": role, "content": "1"}])
    | st.sampled_from(["role", "content"]).map(lambda key: [{"role": "user", "content": "1"}, {key: "user"}])
    | st.sampled_from([np.float64("nan"), np.arange(2), np.array("  "), object(), ..., {1}, range(3), len])
)


@st.composite
def with_one_wrong(draw, wrong):
    """Some rows, the place of the one that is wrong, and what is wrong with it."""
    rows = [{"prompt": text, "answer": "1"} for text in draw(st.lists(TEXT, min_size=1, max_size=5))]
    place, value = draw(st.integers(0, len(rows) - 1)), draw(wrong)
    return rows, place, value


@pytest.mark.parametrize("column", ["prompt", "question", "text"])
@given(case=with_one_wrong(NO_PROMPTS))
def test_a_prompt_that_is_none_is_named_by_row_and_column(refused, column, case):
    rows, place, wrong = case
    rows = [{column: row["prompt"], "answer": "1"} for row in rows]
    rows[place][column] = wrong
    named = "prompt" if column == "question" else column
    with pytest.raises(ConfigError, match=rf"^{named}=") as caught:
        with_prompts(as_rows(rows, field="train_dataset"), named, name="train_dataset")
    assert (caught.value.field, len(str(caught.value)) < 2000) == (named, True)
    refused(caught.value, column, place, wrong, names=f"row {place} of train_dataset")


class Shy:
    """Its repr raises."""

    def __repr__(self):
        raise OSError("not now")


@pytest.mark.parametrize("wrong", [10**5000, Shy(), [10**5000], [{"role": "user", "content": Shy()}]], ids=lambda _: "")
def test_a_prompt_that_cannot_even_be_printed_is_named(wrong):
    with pytest.raises(ConfigError, match=rf"^prompt=<{type(wrong).__name__}> .*row 1 of the dataset has <"):
        with_prompts(as_rows([{"prompt": "1"}, {"prompt": wrong}]))


@given(size=st.integers(10**4, 10**6), place=st.integers(0, 2))
def test_a_huge_prompt_is_named_without_being_printed(refused, size, place):
    rows = [{"prompt": "1"}, {"prompt": "2"}, {"prompt": "3"}]
    for wrong in ([{"role": "user", "content": "x" * size, "more": 1}, "x"], b"x" * size):
        rows[place] = {"prompt": wrong}
        with pytest.raises(ConfigError, match=r"^prompt=") as caught:
            with_prompts(as_rows(rows))
        assert len(str(caught.value)) < 1000
        refused(caught.value, type(wrong), size, place, names=f"row {place}")


@given(case=with_one_wrong(st.sampled_from(["prompt", "answer"])), column=TEXT)
def test_a_column_that_one_row_lacks_is_named_by_row(refused, case, column):
    rows, place, lost = case
    if len(rows) == 1 and lost == "answer":  # nobody has one, and not every reward needs one
        assert "answer" not in with_prompts([{"prompt": rows[0]["prompt"]}])[0]
        return
    rows[place] = {"level": 1} | {name: value for name, value in rows[place].items() if name != lost}
    with pytest.raises(ConfigError, match=f"^{lost}_column=") as caught:
        with_prompts(as_rows(rows))
    refused(caught.value, lost, place, rows, names=f"(row {place} of the dataset)")
    if column in rows[0]:
        return
    with pytest.raises(ConfigError, match=r"^answer_column=") as caught:
        with_prompts([{"prompt": "1", "answer": "2"}], answer_column=column)
    refused(caught.value, column, names=repr(column))


NO_ROWS = (
    st.none()
    | st.integers()
    | st.floats()
    | TEXT
    | st.binary()
    | st.lists(st.integers())
    | st.tuples(TEXT, TEXT)
    | st.sets(st.integers())
)


@given(case=with_one_wrong(NO_ROWS))
def test_a_row_that_is_none_is_named_by_its_number(refused, case):
    rows, place, wrong = case
    rows[place] = wrong
    with pytest.raises(ConfigError, match=r"^eval_dataset=") as caught:
        as_rows(iter(rows), field="eval_dataset")
    refused(caught.value, place, wrong, names=f"row {place}")
    rows[place] = {"prompt": "1", 1: "a", "1": "b"}
    with pytest.raises(ConfigError, match=f"differ in name; those of row {place} do not"):
        as_rows(rows)


@given(
    wrong=st.integers()
    | st.floats()
    | TEXT
    | st.binary()
    | st.dictionaries(TEXT, st.lists(TEXT))
    | st.sampled_from([[], (), len, object()])
)
def test_what_is_no_dataset_is_refused(refused, wrong):
    with pytest.raises(ConfigError, match=r"^train_dataset=") as caught:
        as_rows(wrong, field="train_dataset")
    refused(caught.value, "dataset", wrong if not callable(wrong) else "function", names=type(wrong).__name__)


@given(
    at=st.integers(0, 5), error=st.sampled_from([OSError, KeyError, ValueError, UnicodeDecodeError, ZeroDivisionError])
)
def test_a_stream_that_breaks_is_named_with_its_row(refused, at, error):
    def stream():
        yield from [{"prompt": "1"}] * at
        raise error(*(("utf-8", b"", 0, 1, "broken") if error is UnicodeDecodeError else ("broken",)))

    with pytest.raises(ConfigError, match=rf"row {at} raised {error.__name__}: ") as caught:
        as_rows(stream())
    refused(caught.value, "stream", at, error.__name__)


GARBAGE = {
    "no JSON": TEXT.filter(lambda text: text.strip()[0] not in '[{"-0123456789tfnNI' and len(text.splitlines()) == 1),
    "no object": (st.integers() | st.booleans() | st.none() | TEXT | st.lists(st.integers())).map(json.dumps),
    "cut": st.integers(1, 25).map(lambda end: '{"prompt": "1", "answer": "2"}'[:end]),
    "two on a line": st.just('{"prompt": "1"} {"prompt": "2"}'),
    "no quotes": st.sampled_from(["{prompt: 1}", "{'prompt': '1'}", '{"prompt": undefined}', '{"prompt": "1",}']),
    "endless": st.integers(4301, 9999).map(lambda digits: '{"prompt": "1", "answer": ' + "7" * digits + "}"),
    "control characters": st.sampled_from(['{"prompt": "\x00"}', '{"prompt": "1\t2"}', "\x00", "\x1a"]),
}


@pytest.mark.parametrize("kind", GARBAGE)
@given(data=st.data(), before=st.integers(0, 3), end=st.sampled_from(["\n", "\r\n", ""]))
def test_a_line_that_is_none_is_named_by_file_and_number(refused, tmp_path_factory, kind, data, before, end):
    line, good = data.draw(GARBAGE[kind]), '{"prompt": "1", "answer": "2"}\n'
    path = tmp_path_factory.getbasetemp() / "garbage.jsonl"
    path.write_text(good * before + line + end, encoding="utf-8", newline="")
    with pytest.raises(ConfigError, match=r"^dataset=") as caught:
        load_rows(str(path))
    refused(caught.value, kind, before, line, names=f"line {before + 1}")
    assert str(path) in str(caught.value)


WHOLE = "".join(json.dumps({"prompt": f"{i}+é=", "answer": i}, ensure_ascii=False) + "\n" for i in range(4)).encode()


@given(end=st.integers(0, len(WHOLE)), encoding=st.sampled_from(["utf-8", "utf-16", "utf-32", "latin-1"]))
def test_a_file_that_is_cut_gives_its_whole_lines_or_the_line_where_it_ends(refused, tmp_path_factory, end, encoding):
    path = tmp_path_factory.getbasetemp() / "cut.jsonl"
    path.write_bytes(WHOLE[:end] if encoding == "utf-8" else WHOLE.decode().encode(encoding))
    lines = WHOLE[:end].count(b"\n")
    rest = WHOLE[:end].rpartition(b"\n")[2]
    if encoding == "utf-8" and (rest.endswith(b"}") or (not rest and lines)):
        expected = [(f"{i}+é=", str(i)) for i in range(lines + bool(rest))]
        assert [(row["prompt"], row["answer"]) for row in load_rows(str(path))] == expected
        return
    with pytest.raises(ConfigError, match=r"^dataset=") as caught:
        load_rows(str(path))
    refused(caught.value, end if encoding == "utf-8" else encoding, names=str(path))


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
@given(content=st.binary(max_size=60) | st.text('[]{}:,"0a\n\r\ufeff ').map(str.encode))
def test_bytes_of_anything_are_rows_or_refused(refused, tmp_path_factory, suffix, content):
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    path = tmp_path_factory.getbasetemp() / f"bytes.{suffix}"
    path.write_bytes(content)
    try:
        rows = load_rows(str(path))
    except ConfigError as error:
        refused(error, suffix, content)
    else:
        assert [row["prompt"] for row in rows] == [
            json.loads(line)["prompt"] for line in io.BytesIO(content) if line.strip()
        ]


CHATML = (
    "{% for m in messages %}<{{ m.role }}|{{ m.content }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant|{% endif %}"
)
USUAL = "{% for m in messages if m.role in ('system', 'user', 'assistant') %}<{{ m.role }}|{{ m.content }}>{% endfor %}"
SETTINGS = SimpleNamespace(prompt_column="prompt", system_prompt=None, prompt_template=None)
WORDS = st.text("0123456789+= ", min_size=1, max_size=6).filter(lambda text: text == text.strip() != "")
CHAT = st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant", "tool", "usr"]), WORDS), min_size=1, max_size=4
)


def parts_of(text, split):
    return (
        [{"type": "text", "text": text[:split]}, {"type": "text", "text": text[split:]}]
        if 0 < split < len(text)
        else text
    )


@given(chat=CHAT, split=st.integers(0, 3))
def test_a_chat_is_rendered_whole_in_parts_or_not(chat, split):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHATML
    prompt = [{"role": role, "content": parts_of(text, split)} for role, text in chat]
    expected = "".join(f"<{role}|{text}>" for role, text in chat)
    expected = expected[:-1] if chat[-1][0] == "assistant" else expected + "<assistant|"
    assert (
        row_tokens({"prompt": prompt}, tokenizer, SETTINGS)
        == tokenizer(expected, add_special_tokens=False)["input_ids"]
    )


@given(chat=CHAT.filter(lambda chat: {role for role, _ in chat} & {"tool", "usr"}), index=st.integers(0, 99))
def test_a_role_that_a_template_drops_is_named_with_its_row(refused, chat, index):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = USUAL
    prompt = [{"role": role, "content": text + "?" * place} for place, (role, text) in enumerate(chat)]
    shown = "".join(f"<{m['role']}|{m['content']}>" for m in prompt if m["role"] not in ("tool", "usr"))
    lost = next((m for m in prompt if m["role"] in ("tool", "usr") and m["content"] not in shown), None)
    if lost is None:  # its words stand elsewhere
        return
    with pytest.raises(ConfigError, match=r"^prompt=") as caught:
        row_tokens({"prompt": prompt}, tokenizer, SETTINGS, index)
    refused(caught.value, "dropped", index, chat, names=f"row {index} of the dataset")
    if chat[-1][0] != "assistant":
        assert f"drops {lost['role']!r}" in str(caught.value)


@given(
    wrong=st.sampled_from(
        ["{{ 1 / 0 }}", "{{ messages.x.y }}", "{% for %}", "{{ raise_exception('no') }}", "{{ messages + 1 }}"]
    ),
    text=WORDS,
)
def test_a_template_that_raises_is_an_error_of_the_row(refused, wrong, text):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHATML + wrong
    with pytest.raises(ConfigError, match=r"^prompt=.*chat template takes") as caught:
        row_tokens({"prompt": text}, tokenizer, SETTINGS, 7)
    refused(caught.value, wrong, text, names="row 7 of the dataset")
