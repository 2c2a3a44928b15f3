"""The numbers of a report: known by hand, and those of the comparison of the same lines."""

import json
from pathlib import Path

import pytest
from reports import line, report, two_algorithms

from r2vpo.control.report.lines import read_study
from r2vpo.control.report.numbers import summary_rows

BENCHMARK = Path(__file__).resolve().parents[3] / "benchmarks" / "control_300k"


def test_numbers_of_two_algorithms_by_hand(tmp_path):
    document, _ = report(tmp_path, two_algorithms())
    ppo, new = document["summary"]
    assert (document["reference"], document["baseline"]) == ("ppo", "ppo")
    assert (ppo["final"]["iqm"], ppo["final"]["mean"]) == (10.0, 10.0)
    assert (new["final"]["iqm"], new["final"]["mean"]) == (25.0, 25.0)
    assert ppo["while_training"]["iqm"] == 6.25
    assert new["while_training"]["iqm"] == 20.0  # its first window has no episode
    assert ppo["steps_to_reference"] == {"level": 10.0, "value": 300.0, "interval": [300.0, 300.0]}
    assert new["steps_to_reference"] == {"level": 10.0, "value": 200.0, "interval": [200.0, 200.0]}
    assert ppo["wall_seconds"] == 3.5
    # First known training returns: 0 four times and 10 four times. The best mean: 25.
    assert document["normalisation"] == [{"env": "Hop-v0", "low": 5.0, "high": 25.0, "left_out": None}]
    aggregates = {row["algo"]: row for row in document["aggregates"]}
    assert aggregates["new"]["iqm"]["value"] == 1.0
    assert aggregates["ppo"]["mean"]["value"] == 0.25
    # Normalised: -0.25, 0.25, 0.25, 0.75 and 0.25, 0.75, 1.25, 1.75.
    assert aggregates["ppo"]["optimality_gap"]["value"] == 0.75
    assert aggregates["new"]["optimality_gap"]["value"] == 0.25
    (improvement,) = document["improvement"]
    # Of 16 pairs: 10 beats one and ties two; 20 beats three and ties one; 30 and 40 beat all four.
    assert improvement["overall"]["value"] == (1 + 1 + 3 + 0.5 + 8) / 16
    assert improvement["tasks"] == [improvement["overall"]]
    low, high = improvement["overall"]["interval"]
    assert 0.4 < low < improvement["overall"]["value"] < high <= 1.0


def test_scores_are_those_of_the_comparison():
    rows = json.loads((BENCHMARK / "comparison.json").read_text())["comparison"]
    ours = {(row["env"], row["algo"]): row for row in summary_rows(read_study([BENCHMARK]), "ppo", 10)}
    assert len(rows) == len(ours) == 15
    for row in rows:
        mine = ours[row["env"], row["algo"]]
        for name in ("mean", "mean_interval", "iqm", "iqm_interval"):
            assert mine["final"][name] == pytest.approx(row["deterministic"][name])
            assert mine["while_training"][name] == pytest.approx(row["while_training"][name])
        assert mine["steps_per_second"] == pytest.approx(row["steps_per_second"])


def test_same_lines_in_any_order_give_the_same_numbers(tmp_path):
    lines = two_algorithms()
    first, _ = report(tmp_path / "a", lines)
    second, _ = report(tmp_path / "b", [*lines[3::-1], *lines[:3:-1]])
    for field in ("summary", "aggregates", "profiles", "improvement", "curves", "runs"):
        assert first[field] == second[field]


def test_tasks_without_every_algorithm_or_without_learning_are_left_out_and_named(tmp_path):
    lines = two_algorithms()
    lines += [line("ppo", seed, 3.0, env="Half-v0") for seed in range(2)]
    lines += [line(algo, 0, 0.0, env="Flat-v0", returns=(0.0, 0.0, 0.0, 0.0)) for algo in ("ppo", "new")]
    lines += [line(algo, 0, 1.0, env="Long-v0", returns=(None,) * 4) for algo in ("ppo", "new")]
    document, page = report(tmp_path, lines)
    reasons = {row["env"]: row["left_out"] for row in document["normalisation"]}
    assert reasons["Hop-v0"] is None
    assert reasons["Half-v0"] == "no run of new"
    assert "no algorithm ends above" in reasons["Flat-v0"]
    assert "without a finished training episode" in reasons["Long-v0"]
    assert "no: no run of new" in page.text
    (improvement,) = document["improvement"]
    assert [estimate and estimate["value"] for estimate in improvement["tasks"]][1:] == [None, 0.5, 0.5]
    hop = improvement["tasks"][0]["value"]
    assert improvement["overall"]["value"] == pytest.approx((hop + 0.5 + 0.5) / 3)
    last = document["summary"][-1]
    assert (last["while_training"], last["steps_to_reference"]) == (None, None)


def test_other_settings_are_another_algorithm(tmp_path):
    lines = two_algorithms()
    lines += [line("new", seed, 5.0, settings={"delta": 0.03}, success_rate=0.5) for seed in range(2)]
    lines[0]["settings"] = {}
    document, page = report(tmp_path, lines)
    assert document["algorithms"] == ["ppo", "new", "new delta=0.03"]
    assert [row["success_rate"] for row in document["summary"]] == [None, None, 0.5]
    assert [text for attributes, text in page.cells if "success_rate" in attributes["data-key"]] == ["–", "–", "0.50"]
