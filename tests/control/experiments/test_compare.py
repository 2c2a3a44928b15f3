"""Comparisons: one protocol for all, a resumable list of runs, honest statistics."""

import json

import numpy as np
import pytest

from r2vpo.control.experiments.commands import CompareCommand
from r2vpo.control.experiments.study import compare
from r2vpo.errors import ConfigError, R2VPOError
from r2vpo.runs.study import read_results

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
        algos=("r2vpo-off", "sb3-ppo"),
        seeds=1,
        total_steps=16_384,
        out=tmp_path / "out",
        episodes=2,
        json=tmp_path / "copy.json",
        quiet=True,
    )
    document = compare(command)
    lines = read_results(tmp_path / "out" / "runs.jsonl")
    assert {line["algo"] for line in lines} == {"r2vpo-off", "sb3-ppo"}
    for line in lines:
        assert set(line) >= FIELDS
        assert len(line["eval_returns"]) == len(line["eval_returns_stochastic"]) == 2
        assert line["eval_return_mean"] == pytest.approx(np.mean(line["eval_returns"]))
        assert line["steps"][-1] == 16_384
        assert -2_000 < line["returns"][-1] < 0
    assert json.loads((tmp_path / "copy.json").read_text()) == document
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 10_000
    assert "r2vpo-off" in capsys.readouterr().out

    # A line of another seed appears, and only its run is missing: nothing is trained twice.
    with (tmp_path / "out" / "runs.jsonl").open("a") as file:
        file.write('{"algo": "r2vpo-off", "env": "Pend')  # a kill in the middle of a line
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
