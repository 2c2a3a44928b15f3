"""Rewards that fail in an evaluation: named and counted, no completion lost, none generated twice."""

import json

import pytest
from adding_engine import AddingEngine, run

from r2vpo.errors import NoVerdicts, RewardError
from r2vpo.llm.evaluation.completions import read_groups
from r2vpo.llm.evaluation.tables import print_results
from r2vpo.llm.rewards.exact import exact


def lines_of(path):
    return [line for group in read_groups(path) for line in group]


def named(function, name="reward"):
    function.__name__ = name
    return function


def raises(completions, **columns):
    raise OSError("no network")


def none(completions, **columns):
    return [None] * len(completions)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (none, r"no answer had a reward: reward 'reward' had no verdict on 60 of 60 completions$"),
        (raises, r"had no verdict on 60 of 60 completions, at last it raised OSError: no network$"),
    ],
)
def test_a_reward_that_judges_nothing_is_named_and_its_completions_are_judged_again(tmp_path, function, said):
    file = tmp_path / "completions.jsonl"
    with pytest.raises(NoVerdicts, match=said):
        run(reward=named(function), output=file)
    assert len(lines_of(file)) == 60
    engine = AddingEngine()
    with pytest.raises(NoVerdicts, match=said):
        run(engine, reward=named(function), output=file)
    result = run(engine, reward=exact, output=file)  # whatever its name
    assert engine.calls == []
    assert (result.pass_at_k, result.greedy_accuracy) == (run().pass_at_k, run().greedy_accuracy)
    assert (result.excluded, result.reward_errors) == (0, {})


def test_an_evaluation_that_nobody_judges_ends_after_a_few_batches(tmp_path):
    engine = AddingEngine()
    with pytest.raises(NoVerdicts, match="45 of 45"):
        run(engine, reward=none, output=tmp_path / "completions.jsonl", completions_at_once=15)
    assert len(engine.calls) == 3 * 2


def test_a_reward_that_fails_once_is_counted_and_asked_again(tmp_path, capsys):
    calls = []

    def flaky(completions, answer, **columns):
        calls.append(len(completions))
        if len(calls) == 2:
            raise OSError("no network")
        return exact(None, completions, answer)

    file = tmp_path / "completions.jsonl"
    result = run(reward=flaky, output=file, completions_at_once=15)
    assert (result.excluded, result.excluded_by_function) == (15, {"flaky": 15})
    assert result.reward_errors == {"flaky": "OSError: no network"}
    print_results({"sums": result})
    assert "sums: reward 'flaky' had no verdict on 15 answers, at last it raised OSError" in capsys.readouterr().out
    assert run(reward=flaky, output=file, completions_at_once=15).pass_at_k == run().pass_at_k
    assert calls == [15] * 5
    assert all("errors" not in line for line in lines_of(file))


@pytest.mark.parametrize("kind", [RewardError, KeyboardInterrupt])
def test_what_was_generated_when_a_reward_stopped_the_evaluation_is_kept(tmp_path, kind):
    calls = []

    def stops(completions, answer, **columns):
        calls.append(len(completions))
        if len(calls) == 2:
            raise kind("stopped here")
        return exact(None, completions, answer)

    file, engine = tmp_path / "completions.jsonl", AddingEngine()
    with pytest.raises(kind):
        run(engine, reward=stops, output=file, completions_at_once=15)
    assert [line["reward"] is None for line in lines_of(file)] == [False] * 15 + [True] * 15
    assert run(engine, reward=stops, output=file, completions_at_once=15).pass_at_k == run().pass_at_k
    assert sum(problems for problems, size, _ in engine.calls if size == 4) == 12
    assert json.loads(file.read_text().splitlines()[0])["settings"]["reward"] == ["stops"]
