"""The benchmark really measures, adds up, and refuses what it cannot do."""

import json

import pytest

from r2vpo.control.experiments.bench import command as bench
from r2vpo.control.experiments.bench.command import summarise
from r2vpo.control.experiments.bench.runs import LABELS, OURS, SB3_BUDGET, measure
from r2vpo.control.presets import resolve_config
from r2vpo.errors import ConfigError

pytest.importorskip("stable_baselines3", reason="Stable-Baselines3 is not installed")


@pytest.mark.parametrize("name", [name for name in OURS if name.startswith("budget")])
def test_every_budget_is_that_of_sb3(name):
    config = resolve_config({**OURS[name], "env": "HalfCheetah-v5"})
    assert config.rollout_size == 2048
    assert config.gradient_steps == 320
    assert (config.minibatch_size, config.learning_rate, config.gamma, config.gae_lambda) == (64, 3e-4, 0.99, 0.95)


def test_measured_parts_add_up_to_the_measured_speed(monkeypatch):
    monkeypatch.setitem(SB3_BUDGET, "gradient_step", "eager")
    monkeypatch.setitem(OURS, "budget", {**OURS["budget"], "gradient_step": "eager"})
    result = measure("budget", "HalfCheetah-v5", 4096)
    parts = result["seconds_per_step"]
    assert set(parts) == {"environments", "inference", "learning"}
    assert all(seconds > 0 for seconds in parts.values())
    # Both are wall-clock times of the same work, taken one after the other on a machine that may be busy.
    assert 0.3 < sum(parts.values()) * result["steps_per_second"] < 3.0
    assert result["peak_mb"] > 100


def test_physics_alone_and_the_peers_are_measured():
    assert measure("physics", "Hopper-v5", 2000)["steps_per_second"] > 0
    assert measure("sb3-8", "Hopper-v5", 2048)["steps_per_second"] > 0


def test_ratios_are_taken_round_by_round():
    speeds = [
        {"sb3-1": 100.0, "budget": 1000.0},
        {"sb3-1": 200.0, "budget": 1800.0},
        {"sb3-1": 100.0, "budget": 1100.0},
    ]
    rounds = [{name: {"steps_per_second": v, "peak_mb": 1.0} for name, v in one.items()} for one in speeds]
    (case,) = summarise({"HalfCheetah-v5": rounds})
    assert (case["ratio"], case["ratio_min"], case["ratio_max"]) == (10.0, 9.0, 11.0)
    assert (case["ours"], case["peer"]) == (1100.0, 100.0)


def test_command_writes_json_and_picture(tmp_path, monkeypatch, capsys):
    def fake(name, env, steps):
        return {"steps_per_second": 1000.0 * (1 + list(LABELS).index(name)), "peak_mb": 500.0}

    monkeypatch.setattr(bench, "_in_own_process", fake)
    path = tmp_path / "speed.json"
    measured = ["sb3-1", "budget", "physics"]
    assert (
        bench.main(["--env", "Hopper-v5", "Ant-v5", "--alternations", "2", "--measure", *measured, "--json", str(path)])
        == 0
    )
    document = json.loads(path.read_text())
    assert [case["env"] for case in document["cases"]] == ["Hopper-v5", "Ant-v5"]
    assert document["cases"][0]["ratio"] == pytest.approx((1 + list(LABELS).index("budget")) / 1.0)
    assert [sorted(one) for one in document["rounds"]["Ant-v5"]] == [sorted(measured)] * 2
    assert {"versions", "machine", "commit", "command"} <= document.keys()
    assert path.with_suffix(".png").stat().st_size > 1000
    assert "times" in capsys.readouterr().out


def test_bad_counts_are_refused():
    with pytest.raises(ConfigError, match="alternations=0"):
        bench.main(["--alternations", "0"])
