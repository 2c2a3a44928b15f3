"""Rows from files and from memory: what is read, normalised and refused."""

import json

import pytest
from data_files import refused, write_lines, write_parquet

from r2vpo.errors import ConfigError
from r2vpo.llm.data.rows import as_rows, builtin_names, load_rows

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
    assert "row 0" in refused("dataset", str(path))


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


@pytest.mark.parametrize("dataset", [[], [1], ["text"], "rows", 3, {"prompt": []}], ids=repr)
def test_as_rows_refuses_what_is_no_dataset(dataset):
    with pytest.raises(ConfigError) as error:
        as_rows(dataset)
    assert error.value.field == "dataset"
