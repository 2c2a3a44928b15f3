"""Comparisons: one protocol for all, a resumable list of runs, honest statistics."""

import json

import numpy as np
import pytest
from scipy import stats

from r2vpo.control.evaluation import EpisodeLog, evaluate_policy
from r2vpo.control.experiments.commands import CompareCommand
from r2vpo.control.experiments.study import compare
from r2vpo.errors import ConfigError, R2VPOError
from r2vpo.runs.study import read_results
from r2vpo.stats import bootstrap_interval, interquartile_mean, summarise

FIELDS = {
    "algo",
    "env",
    "seed",
    "total_steps",
    "eval_return_mean",
    "steps",
    "returns",
    "wall_seconds",
    "config",
    "versions",
    "commit",
}


@pytest.mark.slow
def test_compare_trains_evaluates_and_goes_on_where_it_stopped(tmp_path, capsys):
    pytest.importorskip("stable_baselines3", reason="needs stable-baselines3")
    command = CompareCommand(
        env=("Pendulum-v1",),
        algos=("r2vpo-on", "sb3-ppo"),
        seeds=1,
        total_steps=4_096,
        out=tmp_path / "out",
        episodes=2,
        json=tmp_path / "copy.json",
        quiet=True,
    )
    document = compare(command)
    lines = read_results(tmp_path / "out" / "runs.jsonl")
    assert {line["algo"] for line in lines} == {"r2vpo-on", "sb3-ppo"}
    for line in lines:
        assert set(line) >= FIELDS
        assert len(line["eval_returns"]) == len(line["eval_returns_stochastic"]) == 2
        assert line["eval_return_mean"] == pytest.approx(np.mean(line["eval_returns"]))
        assert line["steps"][-1] == 4_096
        assert -2_000 < line["returns"][-1] < 0
    assert json.loads((tmp_path / "copy.json").read_text()) == document
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 10_000
    assert "r2vpo-on" in capsys.readouterr().out

    # A line of another seed appears, and only its run is missing: nothing is trained twice.
    with (tmp_path / "out" / "runs.jsonl").open("a") as file:
        file.write('{"algo": "r2vpo-on", "env": "Pend')  # a kill in the middle of a line
    second = compare(command)
    assert second == document


def test_compare_raises_when_runs_failed(tmp_path, monkeypatch):
    monkeypatch.setattr("r2vpo.runs.study.run_jobs", lambda *arguments, **named: ["ppo Pendulum-v1, seed 0: killed"])
    with pytest.raises(R2VPOError, match=r"1 of 1 runs failed.*killed"):
        compare(CompareCommand(env=("Pendulum-v1",), algos=("ppo",), seeds=1, out=tmp_path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"algos": ("dqn",)}, "algos='dqn'"),
        ({"workers": 0}, "workers=0"),
        ({"env": ("CartPole-v1",)}, "action_space"),
        ({"env": ("No-v0",)}, "No-v0"),
    ],
)
def test_bad_comparisons_start_nothing(tmp_path, change, said):
    with pytest.raises(ConfigError, match=said):
        compare(CompareCommand(out=tmp_path / "out", **change))
    assert not (tmp_path / "out").exists()


def test_interquartile_mean_of_five_seeds_drops_the_best_and_the_worst():
    assert interquartile_mean([100.0, 1.0, 2.0, 3.0, -50.0]) == 2.0


def test_bootstrap_interval_covers_the_mean_of_normal_data():
    rng = np.random.default_rng(0)
    samples = rng.normal(3.0, 1.0, (60, 40))
    intervals = np.array([bootstrap_interval(sample, np.mean) for sample in samples])
    covered = ((intervals[:, 0] <= 3.0) & (intervals[:, 1] >= 3.0)).mean()
    assert 0.85 <= covered <= 1.0
    student = np.array([stats.t.interval(0.95, 39, s.mean(), stats.sem(s)) for s in samples])
    assert np.ptp(intervals, axis=1).mean() == pytest.approx(np.ptp(student, axis=1).mean(), rel=0.1)


def test_summary_of_equal_scores_is_a_point():
    assert summarise([2.0, 2.0]) == {"mean": 2.0, "mean_interval": [2.0, 2.0], "iqm": 2.0, "iqm_interval": [2.0, 2.0]}


def test_curve_windows_by_hand():
    log = EpisodeLog()
    for step, value in ((30, 1.0), (50, 3.0), (51, 5.0), (90, 7.0)):
        log.add(step, value)
    steps, returns = log.curve(total_steps=100, points=4)
    assert steps == [25, 50, 75, 100]
    assert returns == [None, 2.0, 5.0, 7.0]
    log.add(104, 9.0)  # the last rollout may end beyond the budget
    assert log.curve(100, 4)[1][-1] == 8.0
    assert EpisodeLog().curve(100, 2)[1] == [None, None]


def test_every_evaluation_environment_contributes_its_first_episode():
    result = evaluate_policy(lambda observations: np.zeros((len(observations), 1)), "Pendulum-v1", 4, seed=0)
    assert result.lengths == [200] * 4
    assert len(set(result.returns)) == 4
    again = evaluate_policy(lambda observations: np.zeros((len(observations), 1)), "Pendulum-v1", 4, seed=0)
    assert again == result
