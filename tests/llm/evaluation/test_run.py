"""Evaluation with an engine that knows sums: counts by hand, nothing lost, nothing invented."""

import json

import numpy as np
import pytest
from adding_engine import AddingEngine, rows, run

from r2vpo.errors import ConfigError, RunDirectoryError
from r2vpo.llm.evaluation.completions import read_groups
from r2vpo.llm.evaluation.protocol import EvaluationProtocol
from r2vpo.llm.evaluation.run import answer_seeds
from r2vpo.llm.rewards.exact import exact


def lines_of(path):
    return [line for group in read_groups(path) for line in group]


def test_figures_are_those_of_the_completions_in_the_file(tmp_path):
    file = tmp_path / "completions.jsonl"
    result = run(output=file)
    lines = lines_of(file)
    assert len(lines) == 12 * 5
    sampled = np.array([line["reward"] for line in lines if line["sample"] is not None]).reshape(12, 4)
    assert 0 < sampled.mean() < 1
    assert result.pass_at_k[1].value == pytest.approx(sampled.mean())
    assert result.pass_at_k[4].value == pytest.approx((sampled.max(axis=1) > 0).mean())
    assert result.pass_at_k[1].low < result.pass_at_k[1].value < result.pass_at_k[1].high
    assert result.pass_at_k[1].value < result.pass_at_k[2].value < result.pass_at_k[4].value
    assert result.greedy_accuracy.value == 0.5  # sums 3, 6, 9, ... are even every other time
    assert (result.problems, result.samples, result.excluded, result.cut_off) == (12, 4, 0, 0.0)
    assert result.mean_tokens == np.mean([line["tokens"] for line in lines if line["sample"] is not None])
    assert lines[5] | {"completion": "", "reward": 0, "verdicts": {}, "generate_seconds": 0, "verify_seconds": 0} == {
        "index": 1,
        "id": "sum-1",
        "prompt": "1+5=",
        "answer": "6",
        "sample": 0,
        "completion": "",
        "reward": 0,
        "verdicts": {},
        "finished": True,
        "tokens": 2,
        "generate_seconds": 0,
        "verify_seconds": 0,
    }
    assert json.loads(json.dumps(result.as_dict()))["pass_at_2"]["problems"] == 12


def test_sampling_is_asked_for_as_the_protocol_says():
    engine = AddingEngine()
    run(engine, completions_at_once=30)
    sampled, greedy = engine.calls[0], engine.calls[1]
    assert sampled[:2] == (6, 4)
    assert (sampled[2].temperature, sampled[2].top_p, sampled[2].max_tokens) == (0.6, 0.95, 8)
    assert greedy[:2] == (6, 1)
    assert (greedy[2].temperature, greedy[2].top_p) == (0.0, 1.0)
    assert len(engine.calls) == 4


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_answers_do_not_depend_on_how_problems_are_batched(tmp_path, at_once):
    run(output=tmp_path / "a.jsonl")
    run(output=tmp_path / "b.jsonl", completions_at_once=at_once)
    texts = [[line["completion"] for line in lines_of(tmp_path / f"{name}.jsonl")] for name in "ab"]
    assert texts[0] == texts[1]


def test_seeds_are_distinct_and_a_longer_list_begins_alike():
    seeds = [seed for index in range(50) for seed in answer_seeds(3, index, 16)]
    assert len(set(seeds)) == 800
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert answer_seeds(3, 7, 16)[:4] == answer_seeds(3, 7, 4)
    assert answer_seeds(4, 7, 4) != answer_seeds(3, 7, 4)


def test_a_stopped_evaluation_does_only_what_is_missing(tmp_path):
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    expected = run(output=whole)
    with pytest.raises(KeyboardInterrupt):
        run(AddingEngine(die_after=10), output=stopped, completions_at_once=15)
    assert len(lines_of(stopped)) == 3 * 5
    with stopped.open(
        "a"
    ) as file:  # a kill in the middle of a write: a whole line of the fourth problem, and half a line
        file.write(json.dumps(lines_of(whole)[15]) + "\n" + '{"index": 3, "id')
    engine, progress = AddingEngine(), []

    def note(problems, tally):
        progress.append(problems)

    result = run(engine, output=stopped, completions_at_once=15, on_progress=note)
    assert sum(problems for problems, size, _ in engine.calls if size == 4) == 9
    assert progress == [6, 9, 12]
    assert [line["completion"] for line in lines_of(stopped)] == [line["completion"] for line in lines_of(whole)]
    assert (result.pass_at_k, result.greedy_accuracy) == (expected.pass_at_k, expected.greedy_accuracy)
    again = AddingEngine()
    assert run(again, output=stopped).pass_at_k == expected.pass_at_k
    assert again.calls == []


def test_a_larger_limit_goes_on_and_a_smaller_one_counts_less(tmp_path):
    file = tmp_path / "completions.jsonl"
    run(output=file, problems=rows(4))
    engine = AddingEngine()
    assert run(engine, output=file, problems=rows(12)).pass_at_k == run().pass_at_k
    assert engine.calls[0][0] == 8
    assert run(output=file, problems=rows(4)).problems == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"temperature": 1.0}, "temperature 0.6 instead of 1.0"),
        ({"samples": 5}, "samples 4 instead of 5"),
        ({"seed": 1}, "seed 0 instead of 1"),
        ({"prompt_template": "Q: {prompt}"}, "prompt_template"),
    ],
)
def test_a_file_of_other_settings_is_refused(tmp_path, change, said):
    file = tmp_path / "completions.jsonl"
    run(output=file, identity={"model": "a"})
    before = file.read_bytes()
    values = {"samples": 4, "k": (1,), "max_tokens": 8} | change
    with pytest.raises(RunDirectoryError, match=f"other settings.*{said}"):
        run(protocol=EvaluationProtocol(**values), output=file, identity={"model": "a"})
    with pytest.raises(RunDirectoryError, match="model 'a' instead of 'b'"):
        run(output=file, identity={"model": "b"})
    assert file.read_bytes() == before


def test_k_and_the_bar_can_change_without_new_answers(tmp_path):
    file = tmp_path / "completions.jsonl"
    run(output=file)
    engine = AddingEngine()
    result = run(engine, EvaluationProtocol(samples=4, k=(3,), max_tokens=8, solved_above=1.0), output=file)
    assert (engine.calls, result.pass_at_k[3].value) == ([], 0.0)


def test_other_problems_under_the_same_name_are_refused(tmp_path):
    file = tmp_path / "completions.jsonl"
    run(output=file)
    with pytest.raises(RunDirectoryError, match=r"other problems.*prompt of problem 0"):
        run(output=file, problems=[{"prompt": "9+9=", "answer": "18"}])


@pytest.mark.parametrize("content", ["", "not json\n", "[1]\n", '{"index": 0}\n'])
def test_a_foreign_file_is_refused_and_an_empty_one_is_used(tmp_path, content):
    file = tmp_path / "completions.jsonl"
    file.write_text(content)
    if content:
        with pytest.raises(RunDirectoryError, match=str(file)):
            run(output=file)
        assert file.read_text() == content
    else:
        assert run(output=file).problems == 12


def undecided(prompts, completions, answer, **columns):
    """No verdict on the first problem, on one sample of the second, and on the greedy answer of the third."""
    verdicts = exact(prompts, completions, answer)
    return [None if i in {0, 1, 2, 3, 4, 5, 14} else verdict for i, verdict in enumerate(verdicts)]


def test_a_missing_verdict_is_excluded_and_counted_and_never_a_zero(tmp_path):
    file = tmp_path / "completions.jsonl"
    result = run(AddingEngine(chance=1.1), reward=undecided, output=file)
    assert result.excluded == 7
    assert result.excluded_by_function == {"undecided": 7}
    assert {k: (e.value, e.problems) for k, e in result.pass_at_k.items()} == {1: (1, 11), 2: (1, 11), 4: (1, 10)}
    assert result.greedy_accuracy.problems == 10
    assert [line["reward"] for line in lines_of(file)[4:7]] == [None, None, 1.0]


def test_minus_one_is_not_solved_and_named_rewards_are_added(tmp_path):
    def signed(prompts, completions, answer, **columns):
        return [2 * verdict - 1 for verdict in exact(prompts, completions, answer)]

    expected = run()
    assert run(reward=signed).pass_at_k == expected.pass_at_k
    both = run(reward=[("exact", exact), ("signed", signed)], output=tmp_path / "both.jsonl")
    assert both.pass_at_k == expected.pass_at_k
    assert {line["reward"] for line in lines_of(tmp_path / "both.jsonl")} == {-1.0, 2.0}


def test_answers_that_are_cut_are_counted():
    result = run(protocol=EvaluationProtocol(samples=2, k=(1,), max_tokens=2))
    assert 0.5 < result.cut_off < 1.0  # two digits and the end do not fit, one digit and the end do


def test_greedy_alone_and_samples_alone():
    greedy = run(protocol=EvaluationProtocol(samples=0, k=(), max_tokens=8))
    assert (greedy.pass_at_k, greedy.greedy_accuracy.value) == ({}, 0.5)
    sampled = run(protocol=EvaluationProtocol(samples=4, k=(1, 2, 4), max_tokens=8, greedy=False))
    assert sampled.greedy_accuracy is None
    assert sampled.pass_at_k == run().pass_at_k


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"samples": 4, "k": (8,)}, "k"),
        ({"k": (0,)}, "k"),
        ({"samples": -1}, "samples"),
        ({"samples": 0, "greedy": False}, "samples"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": -1}, "seed"),
        ({"prompt_template": "no place"}, "prompt_template"),
    ],
)
def test_protocols_that_mean_nothing(settings, field):
    with pytest.raises(ConfigError) as caught:
        EvaluationProtocol(**settings)
    assert caught.value.field == field


def test_a_row_without_a_prompt_names_the_columns():
    with pytest.raises(ConfigError, match=r"prompt_column.*answer, question"):
        run(problems=[{"question": "1+1=", "answer": "2"}])
