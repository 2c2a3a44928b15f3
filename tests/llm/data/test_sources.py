"""Datasets by name: built-in ones, the hub, DAPO's repetitions, reasoning-gym."""

import json
import logging
import os
import re
from pathlib import Path

import pytest
from data_files import refused, write_lines, write_parquet

from r2vpo.envs.reasoning import parse_task
from r2vpo.errors import ConfigError
from r2vpo.llm.data import files, sources
from r2vpo.llm.data.rows import builtin_names, load_rows


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

    monkeypatch.setattr(sources, "read_hub", nothing)


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
    assert set(sources.PAPER_BENCHMARKS) <= set(builtin_names())


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
    monkeypatch.setattr(files, "import_datasets", lambda name: Datasets)
    assert [row["answer"] for row in load_rows("gsm8k", "test", limit=1)] == ["3"]
    assert load_rows("owner/name", "train", prompt_column="question")[0]["answer"] == "#### 3"
    assert asked == [("openai/gsm8k", "main", "test"), ("owner/name", None, "train")]


def test_a_hub_that_fails_is_one_error(monkeypatch):
    class Datasets:
        @staticmethod
        def load_dataset(path, configuration, split):
            raise ConnectionError("no route\nto host")

    monkeypatch.setattr(files, "import_datasets", lambda name: Datasets)
    message = refused("dataset", "owner/name")
    assert "ConnectionError: no route" in message


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
    monkeypatch.setattr(sources, "read_hub", lambda name, split, limit=None: rows)
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
