"""Datasets by name: what comes out has prompt and answer; what cannot be read says which file, line or column."""

import json
import logging
import os
import re
from pathlib import Path

import pytest

from r2vpo.envs.reasoning import parse_task
from r2vpo.errors import ConfigError
from r2vpo.llm.data import files as hub_data
from r2vpo.llm.data import sources as benchmarks
from r2vpo.llm.data.prompts import format_prompt
from r2vpo.llm.data.rows import as_rows, builtin_names, load_rows
from r2vpo.llm.models.tiny_tokenizer import BOS_ID, make_tokenizer

ROWS = [{"prompt": "1+1=", "answer": "2", "level": 1}, {"prompt": "2+2=", "answer": "4", "level": 2}]
MESSAGES = [{"role": "user", "content": "1+1="}]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path, rows):
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def refused(field, *arguments, **settings):
    with pytest.raises(ConfigError) as error:
        load_rows(*arguments, **settings)
    assert error.value.field == field
    return str(error.value)


@pytest.fixture
def data_directory():
    directory = Path(os.environ.get("R2VPO_DATA") or Path(__file__).resolve().parents[4] / "shared" / "data")
    if not (directory / "gsm8k" / "test.jsonl").exists():
        pytest.skip(f"no data in {directory}; set R2VPO_DATA")
    return directory


@pytest.fixture
def _no_hub(monkeypatch):
    def nothing(name, split, limit=None):
        raise ConfigError("dataset", name, "reachable")

    monkeypatch.setattr(benchmarks, "read_hub", nothing)


# Files


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


# Columns


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


# Rows in memory


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


# Built-in names


def test_arithmetic_splits_do_not_meet():
    train, test = load_rows("arithmetic", "train"), load_rows("arithmetic", "test")
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in test}
    assert len(load_rows("arithmetic", "test", limit=5)) == 5


def test_gsm8k_answer_is_what_follows_the_mark(tmp_path, monkeypatch):
    (tmp_path / "gsm8k").mkdir()
    solution = "12 * 100 = <<12*100=1200>>1,200\n#### 1,200"
    write_lines(tmp_path / "gsm8k" / "train.jsonl", [{"question": "How many?", "answer": solution}])
    monkeypatch.setenv("R2VPO_DATA", str(tmp_path))
    (row,) = load_rows("gsm8k")
    assert row == {"question": "How many?", "prompt": "How many?", "answer": "1200", "solution": solution}
    write_lines(tmp_path / "gsm8k" / "train.jsonl", [{"question": "How many?", "answer": "1200"}])
    assert "####" in refused("dataset", "gsm8k")


@pytest.mark.parametrize(
    ("name", "split", "count", "first"),
    [
        ("gsm8k", "train", 7473, "72"),
        ("gsm8k", "test", 1319, "18"),
        ("aime2024", "test", 30, "204"),
        ("aime2025", "test", 30, "70"),
        ("amc2023", "train", 40, "27"),
        ("hmmt_feb_2025", "test", 30, "103"),
        ("olymmath", "test", 200, "948"),
        ("olymmath-easy", "test", 100, "948"),
        ("olymmath-hard", "test", 100, "2625"),
    ],
)
def test_files_of_the_benchmarks(data_directory, monkeypatch, name, split, count, first):
    monkeypatch.setenv("R2VPO_DATA", str(data_directory))
    rows = load_rows(name, split)
    assert len(rows) == count
    assert rows[0]["answer"] == first
    assert all(isinstance(row["prompt"], str) and row["answer"] for row in rows)


def test_every_benchmark_of_the_paper_has_a_name():
    assert set(benchmarks.PAPER_BENCHMARKS) <= set(builtin_names())


@pytest.mark.usefixtures("_no_hub")
def test_data_that_is_nowhere_names_the_variable_and_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("R2VPO_DATA", str(tmp_path))
    message = refused("dataset", "aime2024", "test")
    assert "R2VPO_DATA" in message
    assert "math_benchmarks/aime2024.jsonl" in message
    refused("split", "gsm8k", "validation")


def test_without_a_data_directory_the_hub_is_asked(monkeypatch):
    asked = []

    class Datasets:
        @staticmethod
        def load_dataset(path, configuration, split):
            asked.append((path, configuration, split))
            return [{"question": "How many?", "answer": "#### 3"}, {"question": "And now?", "answer": "#### 4"}]

    monkeypatch.delenv("R2VPO_DATA", raising=False)
    monkeypatch.setattr(hub_data, "import_datasets", lambda name: Datasets)
    assert [row["answer"] for row in load_rows("gsm8k", "test", limit=1)] == ["3"]
    assert load_rows("owner/name", "train", prompt_column="question")[0]["answer"] == "#### 3"
    assert asked == [("openai/gsm8k", "main", "test"), ("owner/name", None, "train")]


def test_a_hub_that_fails_is_one_error(monkeypatch):
    class Datasets:
        @staticmethod
        def load_dataset(path, configuration, split):
            raise ConnectionError("no route\nto host")

    monkeypatch.setattr(hub_data, "import_datasets", lambda name: Datasets)
    message = refused("dataset", "owner/name")
    assert "ConnectionError: no route" in message


# DAPO-Math-17k


def dapo_row(index, copy=0):
    return {
        "data_source": "math_dapo",
        "prompt": [{"role": "user", "content": f"Problem {index}"}],
        "ability": "MATH",
        "reward_model": {"style": "rule-lighteval/MATH_v2", "ground_truth": str(10 * index)},
        "extra_info": {"index": f"id-{index}", "copy": copy},
    }


def test_dapo_keeps_each_problem_once_and_says_so(tmp_path, monkeypatch, caplog):
    rows = [dapo_row(i, copy) for copy in range(100) for i in range(7)]
    write_parquet(tmp_path / "dapo-math-17k.parquet", rows)
    monkeypatch.setenv("R2VPO_DATA", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        kept = load_rows("dapo-math-17k")
    assert [row["answer"] for row in kept] == [str(10 * i) for i in range(7)]
    assert [row["extra_info"]["copy"] for row in kept] == [0] * 7
    assert kept[3]["prompt"] == [{"role": "user", "content": "Problem 3"}]
    assert "read 700 rows, dropped 693 repeated ones, kept 7" in caplog.text


def test_dapo_finds_repetitions_across_shards_and_batches(tmp_path, monkeypatch):
    from r2vpo.llm.data import files as row_files

    monkeypatch.setattr(row_files, "_BATCH_ROWS", 2)
    (tmp_path / "dapo-math-17k").mkdir()
    write_parquet(tmp_path / "dapo-math-17k" / "train-0.parquet", [dapo_row(0), dapo_row(1), dapo_row(0, 1)])
    write_parquet(tmp_path / "dapo-math-17k" / "train-1.parquet", [dapo_row(1, 1), dapo_row(2), dapo_row(2, 1)])
    monkeypatch.setenv("R2VPO_DATA", str(tmp_path))
    assert [row["answer"] for row in load_rows("dapo-math-17k")] == ["0", "10", "20"]
    assert [row["answer"] for row in load_rows("dapo-math-17k", limit=2)] == ["0", "10"]


def test_dapo_from_the_hub_is_deduplicated_too(monkeypatch):
    monkeypatch.delenv("R2VPO_DATA", raising=False)
    rows = [dapo_row(0), dapo_row(0, 1), dapo_row(1)]
    monkeypatch.setattr(benchmarks, "read_hub", lambda name, split, limit=None: rows)
    assert [row["answer"] for row in load_rows("dapo-math-17k")] == ["0", "10"]


@pytest.mark.parametrize(("column", "wanted"), [("extra_info", "extra_info.index"), ("reward_model", "ground_truth")])
def test_dapo_without_its_columns(tmp_path, monkeypatch, column, wanted):
    row = dapo_row(0)
    del row[column]
    write_parquet(tmp_path / "dapo-math-17k.parquet", [row])
    monkeypatch.setenv("R2VPO_DATA", str(tmp_path))
    assert wanted in refused("dataset", "dapo-math-17k")


def test_other_files_in_the_same_layout_have_their_answer_found(tmp_path):
    path = write_lines(tmp_path / "mine.jsonl", [dapo_row(4), dapo_row(4)])
    assert [row["answer"] for row in load_rows(str(path))] == ["40", "40"]


# reasoning-gym


def test_reasoning_rows_can_be_verified_and_splits_do_not_meet():
    pytest.importorskip("reasoning_gym", reason="needs reasoning-gym")
    from reasoning_gym.factory import get_score_answer_fn

    train = load_rows("reasoning-gym:chain_sum", "train", limit=50)
    test = load_rows("reasoning-gym:chain_sum", "test", limit=20)
    assert (len(train), len(test)) == (50, 20)
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in test}
    assert load_rows("reasoning-gym:chain_sum", "test", limit=20) == test
    verify = get_score_answer_fn(train[0]["task"])
    entry = json.loads(train[0]["entry"])
    assert verify(answer=train[0]["answer"], entry=entry) == 1.0
    assert verify(answer="no", entry=entry) < 1.0


def test_reasoning_settings_stand_in_the_name_and_no_two_splits_share_a_problem():
    pytest.importorskip("reasoning_gym", reason="needs reasoning-gym")
    name = "reasoning-gym:gcd,max_value=20"
    splits = {split: {row["prompt"] for row in load_rows(name, split)} for split in ("train", "validation", "test")}
    numbers = [int(n) for prompt in splits["train"] for n in re.findall(r"\d+", prompt)]
    assert max(numbers) == 20
    assert not splits["train"] & splits["test"]
    assert not splits["train"] & splits["validation"]
    assert not splits["validation"] & splits["test"]


def test_values_in_a_task_name_are_json_or_text():
    assert parse_task("gcd") == ("gcd", {})
    name = "basic_arithmetic,max_terms=3,allow_negation=false,whitespace=no_space"
    settings = {"max_terms": 3, "allow_negation": False, "whitespace": "no_space"}
    assert parse_task(name) == ("basic_arithmetic", settings)
    for wrong in ("gcd,max_value", "gcd,=3", "gcd,max_value=", "gcd,max_value=2,max_value=3"):
        with pytest.raises(ConfigError, match="setting=value"):
            parse_task(wrong)


def test_unknown_reasoning_task_suggests_one():
    pytest.importorskip("reasoning_gym", reason="needs reasoning-gym")
    assert "chain_sum" in refused("dataset", "reasoning-gym:chain_sun")
    refused("split", "reasoning-gym:chain_sum", "dev")


# Prompts


CHAT_TEMPLATE = "{% for m in messages %}({{ m['content'] }}){% endfor %}{% if add_generation_prompt %}={% endif %}"


def plain(text):
    return make_tokenizer()(text, add_special_tokens=False)["input_ids"]


def test_plain_prompt_template_and_system_prompt():
    tokenizer = make_tokenizer()
    assert format_prompt("1+1=", tokenizer) == [BOS_ID, *plain("1+1=")]
    assert format_prompt("1+1", tokenizer, template="({prompt})=") == [BOS_ID, *plain("(1+1)=")]
    spaced = format_prompt("1+1=", tokenizer, system_prompt="2")
    assert spaced == tokenizer("2\n\n1+1=")["input_ids"]


def test_braces_in_problems_and_templates_are_text():
    tokenizer = make_tokenizer()
    assert format_prompt("{0}", tokenizer, template="{}{prompt}") == tokenizer("{}{0}")["input_ids"]


def test_chat_template_is_used_where_there_is_one():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    assert format_prompt("1+1", tokenizer) == plain("(1+1)=")
    assert format_prompt([{"role": "user", "content": "1+1"}], tokenizer) == plain("(1+1)=")
    assert format_prompt("1+1", tokenizer, system_prompt="7", template="{prompt},") == plain("(7)(1+1,)=")
    assert format_prompt("1+1", tokenizer, chat=False) == [BOS_ID, *plain("1+1")]
    own = [{"role": "system", "content": "8"}, {"role": "user", "content": "1+1"}]
    assert format_prompt(own, tokenizer, system_prompt="7") == plain("(8)(1+1)=")


@pytest.mark.parametrize(
    ("field", "prompt", "settings"),
    [
        ("prompt", MESSAGES, {}),
        ("prompt", "1+1=", {"chat": True}),
        ("chat", MESSAGES, {"chat": False}),
        ("prompt_template", "1+1=", {"template": "no place"}),
    ],
)
def test_prompts_that_cannot_be_formatted(field, prompt, settings):
    with pytest.raises(ConfigError) as error:
        format_prompt(prompt, make_tokenizer(), **settings)
    assert error.value.field == field


def test_an_end_of_text_that_a_tokenizer_adds_is_taken_off():
    from tokenizers import processors

    tokenizer = make_tokenizer()
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", tokenizer.eos_token_id)]
    )
    assert tokenizer("1=")["input_ids"][-1] == tokenizer.eos_token_id
    assert format_prompt("1=", tokenizer) == plain("1=")
