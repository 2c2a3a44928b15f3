"""Rows from files and from memory: what is read, normalised and refused."""

import json
import math

import pytest
from data_files import refused, write_lines, write_parquet

from r2vpo.errors import ConfigError
from r2vpo.llm.data.rows import as_rows, builtin_names, fingerprint, load_rows, with_prompts

ROWS = [{"prompt": "1+1=", "answer": "2", "level": 1}, {"prompt": "2+2=", "answer": "4", "level": 2}]


def test_json_lines_keep_their_columns_and_order(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", ROWS)
    assert load_rows(str(path)) == ROWS
    assert load_rows(str(path), limit=1) == ROWS[:1]


def test_json_list_and_parquet_hold_the_same_rows(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    assert load_rows(str(tmp_path / "rows.json")) == ROWS
    assert load_rows(str(write_parquet(tmp_path / "rows.parquet", ROWS))) == ROWS


def test_blank_lines_are_no_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"\n{json.dumps(ROWS[0])}\n\n")
    assert load_rows(str(path)) == ROWS[:1]


def test_directory_gives_the_files_of_the_split_in_order(tmp_path):
    write_lines(tmp_path / "train-00001-of-00002.jsonl", ROWS[1:])
    write_lines(tmp_path / "train-00000-of-00002.jsonl", ROWS[:1])
    write_lines(tmp_path / "test.jsonl", [{"prompt": "3+3=", "answer": "6"}])
    assert load_rows(str(tmp_path), "train") == ROWS
    assert load_rows(str(tmp_path), "test") == [{"prompt": "3+3=", "answer": "6"}]
    assert "train-00000-of-00002.jsonl" in refused("dataset", str(tmp_path), "dev")


def test_saved_dataset_directory(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs datasets")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    assert load_rows(str(tmp_path / "one")) == ROWS
    datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)).save_to_disk(tmp_path / "splits")
    assert load_rows(str(tmp_path / "splits"), "train", limit=1) == ROWS[:1]
    assert "train" in refused("dataset", str(tmp_path / "splits"), "test")


def test_missing_file_and_unknown_name_say_what_there_is():
    assert "existing" in refused("dataset", "nowhere.jsonl")
    assert "existing" in refused("dataset", "/nowhere/at/all")
    message = refused("dataset", "gsm")
    assert "did you mean gsm8k" in message
    assert all(name in message for name in builtin_names())


def test_unknown_ending(tmp_path):
    (tmp_path / "rows.csv").write_text("prompt,answer\n")
    assert ".jsonl" in refused("dataset", str(tmp_path / "rows.csv"))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_empty_dataset(tmp_path, name):
    (tmp_path / name).write_text("[]" if name == "rows.json" else "")
    assert "empty" in refused("dataset", str(tmp_path / name))


@pytest.mark.parametrize(
    ("line", "reason"),
    [('{"prompt": "1', "Unterminated"), ("[1]", "list"), ("3", "int"), ("[" * 100_000, "line 2")],
    ids=["cut", "list", "number", "deep"],
)
def test_broken_line_is_named_by_file_and_number(tmp_path, line, reason):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(ROWS[0])}\n{line}\n")
    message = refused("dataset", str(path))
    assert str(path) in message
    assert "line 2" in message
    assert reason in message


@pytest.mark.parametrize(("text", "reason"), [("{}", "dict"), ("[1]", "element 0 is a int"), ("[", "Expecting")])
def test_broken_json_list(tmp_path, text, reason):
    (tmp_path / "rows.json").write_text(text)
    assert reason in refused("dataset", str(tmp_path / "rows.json"))


def test_files_that_are_not_what_their_name_says(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"prompt": "\xff\xfe"}\n')
    assert "UTF-8" in refused("dataset", str(tmp_path / "rows.jsonl"))
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    (tmp_path / "rows.parquet").write_bytes(b"no parquet at all")
    assert "parquet" in refused("dataset", str(tmp_path / "rows.parquet"))


@pytest.mark.parametrize("column", ["problem", "question"])
def test_usual_names_of_the_prompt_are_taken(tmp_path, column):
    path = write_lines(tmp_path / "rows.jsonl", [{column: "1+1=", "answer": 2}])
    assert load_rows(str(path)) == [{column: "1+1=", "prompt": "1+1=", "answer": "2"}]


def test_named_columns_become_prompt_and_answer(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{"text": "1+1=", "gold": "2", "prompt": "no"}])
    (row,) = load_rows(str(path), prompt_column="text", answer_column="gold")
    assert (row["prompt"], row["answer"], row["text"], row["gold"]) == ("1+1=", "2", "1+1=", "2")


def test_missing_column_lists_the_columns_there_are(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [*ROWS, {"text": "3+3=", "gold": "6"}])
    assert "gold, text" in refused("prompt_column", str(path))
    message = refused("answer_column", str(path), answer_column="gold")
    assert "answer, level, prompt" in message
    assert "row 0" in message


@pytest.mark.parametrize("prompt", ["", "  ", None, 3, [], ["a"], [{"role": "user"}]], ids=repr)
def test_prompts_that_are_neither_text_nor_messages(tmp_path, prompt):
    path = write_lines(tmp_path / "rows.jsonl", [{"prompt": prompt, "answer": "2"}])
    assert "row 0" in refused("prompt", str(path))


def test_limit_below_one():
    refused("limit", "arithmetic", limit=0)


def test_as_rows_copies_lists_and_reads_datasets():
    rows = as_rows(ROWS)
    rows[0]["new"] = 1
    assert "new" not in ROWS[0]
    assert as_rows(iter(ROWS), limit=1) == ROWS[:1]
    datasets = pytest.importorskip("datasets", reason="needs datasets")
    dataset = datasets.Dataset.from_list(ROWS)
    assert as_rows(dataset) == as_rows(dataset.to_iterable_dataset()) == ROWS
    with pytest.raises(ConfigError, match="train"):
        as_rows(datasets.DatasetDict(train=dataset))


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    for name, text in (("rows.jsonl", "\n".join(map(json.dumps, ROWS))), ("rows.json", json.dumps(ROWS))):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert load_rows(str(tmp_path / name)) == ROWS


@pytest.mark.parametrize(
    "prompt",
    [None, math.nan, 3, 0.5, b"1+1=", "", " ", [], ["a"], [{"role": "user"}], [{"role": "user", "content": None}]],
    ids=repr,
)
def test_a_prompt_in_memory_that_is_no_text_is_named_by_row_and_column(prompt):
    rows = [ROWS[0], {"text": "2+2=", "prompt": "2+2="}]
    rows[1]["prompt"] = prompt
    with pytest.raises(ConfigError, match=r"prompt=.*text or chat messages.*row 1 of the dataset has") as error:
        with_prompts(as_rows(rows))
    assert error.value.field == "prompt"
    with pytest.raises(ConfigError, match=r"^text=.*row 0"):
        with_prompts([{"text": prompt}], "text")


def test_chats_are_prompts_with_parts_and_tool_calls_too():
    chats = [
        [{"role": "user", "content": "1+1="}],
        [{"role": "user", "content": [{"type": "text", "text": "1+1="}]}],
        [{"role": "user", "content": "1"}, {"role": "assistant", "content": None, "tool_calls": []}],
    ]
    assert [row["prompt"] for row in with_prompts([{"prompt": chat} for chat in chats])] == chats


@pytest.mark.parametrize("column", ["problem", "question"])
@pytest.mark.parametrize(
    "truth", [{"answer": "2"}, {"solution": "2"}, {"ground_truth": "2"}, {"reward_model": {"ground_truth": 2}}], ids=str
)
def test_usual_names_are_taken_in_memory_and_in_files(tmp_path, column, truth):
    rows = [{column: "1+1=", **truth}]
    (row,) = with_prompts(as_rows(rows))
    assert row == {column: "1+1=", "prompt": "1+1=", **truth, "answer": "2"}
    assert load_rows(str(write_lines(tmp_path / "rows.jsonl", rows))) == [row]
    assert rows == [{column: "1+1=", **truth}]


def test_an_answer_of_its_own_wins_and_a_reward_without_answers_needs_none():
    assert with_prompts([{"prompt": "p", "answer": 2, "solution": "3"}])[0]["answer"] == 2
    assert with_prompts([{"prompt": "p", "reward_model": "x"}]) == [{"prompt": "p", "reward_model": "x"}]
    with pytest.raises(ConfigError, match="one of the columns 1, text"):
        with_prompts(as_rows([{"text": "p", 1: "2"}]))


def test_a_column_of_the_ground_truth_by_name_in_memory_and_in_files(tmp_path):
    rows = [{"prompt": "1+1=", "answer": "3", "gold": 2}, {"prompt": "2+2=", "answer": "5", "gold": [4, "four"]}]
    assert [row["answer"] for row in with_prompts(rows, answer_column="gold")] == [2, [4, "four"]]
    path = str(write_lines(tmp_path / "rows.jsonl", rows))
    assert [row["answer"] for row in load_rows(path, answer_column="gold")] == ["2", [4, "four"]]
    assert rows[0]["answer"] == "3"
    with pytest.raises(ConfigError, match=r"answer_column='truth'.*answer, gold, prompt \(row 0 of eval_dataset"):
        with_prompts(rows, answer_column="truth", name="eval_dataset")


def test_ground_truths_are_there_in_all_rows_or_in_none(tmp_path):
    rows = [*ROWS, {"prompt": "3+3="}]
    with pytest.raises(ConfigError, match=r"answer_column='answer'.*prompt \(row 2 of the dataset"):
        with_prompts(rows)
    assert "row 2" in refused("answer_column", str(write_lines(tmp_path / "rows.jsonl", rows)))
    assert load_rows(str(write_lines(tmp_path / "none.jsonl", rows[2:]))) == rows[2:]


def test_a_stream_that_breaks_is_named_with_its_row():
    def stream():
        yield ROWS[0]
        raise OSError("connection lost")

    with pytest.raises(ConfigError, match=r"train_dataset='generator'.*row 1 raised OSError: connection lost"):
        as_rows(stream(), field="train_dataset")
    assert as_rows(stream(), limit=1) == ROWS[:1]


def test_a_data_frame_is_its_rows():
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    frame = pandas.DataFrame({"question": ["1+1=", "2+2="], "answer": [2, None], 0: [0.5, 1.5]})
    assert with_prompts(as_rows(frame)) == [
        {"question": "1+1=", "prompt": "1+1=", "answer": 2, "0": 0.5},
        {"question": "2+2=", "prompt": "2+2=", "answer": None, "0": 1.5},
    ]
    assert as_rows(frame, limit=1) == as_rows(frame)[:1]
    with pytest.raises(ConfigError, match=r"prompt=None.*row 1"):
        with_prompts(as_rows(pandas.DataFrame({"prompt": ["1+1=", None]})))
    with pytest.raises(ConfigError, match="empty"):
        as_rows(pandas.DataFrame({"prompt": []}))


def test_an_arrow_table_and_the_chats_of_a_parquet_file_are_rows(tmp_path):
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    assert as_rows(pyarrow.Table.from_pylist(ROWS)) == ROWS
    chat = [{"role": "user", "content": "1+1="}]
    path = write_parquet(tmp_path / "chats.parquet", [{"prompt": chat, "answer": "2"}])
    assert with_prompts(as_rows(pandas.read_parquet(path))) == [{"prompt": chat, "answer": "2"}]


def test_columns_with_numbers_for_names():
    rows = as_rows([{0: "1+1=", 1: "2"}])
    assert rows == [{"0": "1+1=", "1": "2"}]
    assert with_prompts(rows, "0") == rows
    with pytest.raises(ConfigError, match="differ in name"):
        as_rows([{1: "a", "1": "b"}])


def test_missing_numbers_are_no_ground_truth(tmp_path):
    assert with_prompts([{"prompt": "p", "answer": math.nan}]) == [{"prompt": "p", "answer": None}]
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "p", "answer": NaN}\n')
    assert load_rows(str(path))[0]["answer"] is None


def test_a_fingerprint_changes_with_every_value_order_and_number():
    values = {
        fingerprint(rows)
        for rows in (ROWS, ROWS[::-1], ROWS[:1], [ROWS[0], {**ROWS[1], "answer": "5"}], [ROWS[0], {**ROWS[1], "x": 1}])
    }
    assert len(values) == 5
    assert fingerprint(ROWS) == fingerprint([dict(reversed(row.items())) for row in ROWS])
    assert fingerprint([{"image": object()}]) == fingerprint([{"image": object()}])


def test_rows_that_hold_themselves_cannot_be_written_down():
    loop, deep = [], "x"
    loop.append(loop)
    for _ in range(5000):
        deep = [deep]
    for value in (loop, deep):
        with pytest.raises(ConfigError, match="those of row 1 cannot"):
            fingerprint([ROWS[0], {"prompt": "1", "x": value}])


def test_a_dataset_by_number_is_its_rows():
    class Numbered:
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return {**ROWS[0], "level": index}

    class Broken(Numbered):
        def __getitem__(self, index):
            return ROWS[index + 1]

    assert [row["level"] for row in as_rows(Numbered())] == [0, 1]
    with pytest.raises(ConfigError, match=r"dataset='Broken'.*row 1 raised IndexError"):
        as_rows(Broken())


@pytest.mark.parametrize("dataset", [[], [1], ["text"], "rows", 3, {"prompt": []}], ids=repr)
def test_as_rows_refuses_what_is_no_dataset(dataset):
    with pytest.raises(ConfigError) as error:
        as_rows(dataset)
    assert error.value.field == "dataset"
