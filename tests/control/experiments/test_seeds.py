"""Several seeds at once: each is the single run of its seed, and nothing that was trained is lost or done twice."""

import json
import os
import signal

import pytest
from killing import iterations, send_when, start
from resuming import metrics

from r2vpo.cli import main
from r2vpo.control import R2VPO
from r2vpo.control.experiments.seeds import SeedStudy, best_run, train_seeds
from r2vpo.control.presets import config_dict, resolve_config
from r2vpo.errors import ConfigError, R2VPOError, RunDirectoryError
from r2vpo.runs.stats import bootstrap_interval, interquartile_mean

SMALL = {"num_envs": 3, "rollout_steps": 40, "minibatch_size": 30, "epochs": 2, "eval_episodes": 0}
FLAGS = ["--num-envs", "3", "--rollout-steps", "40", "--minibatch-size", "30", "--epochs", "2"]
LONG = 6_000
"""Long enough for a kill to come in between."""


def test_every_seed_is_its_single_run_and_the_summary_is_theirs(tmp_path, capsys):
    settings = SMALL | {"eval_episodes": 2}
    words = ["--env", "Pendulum-v1", "--total-steps", "960", "--seeds", "2", "--seed", "3", "--quiet"]
    words += [*FLAGS, "--eval-episodes", "2", "--run-dir", str(tmp_path / "all"), "--json", str(tmp_path / "copy.json")]
    assert main(["control", "train", *words]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    scores = []
    for seed in (3, 4):
        model = R2VPO("Pendulum-v1", seed=seed, run_dir=tmp_path / f"single{seed}", total_steps=960, **settings)
        model.learn()
        model.close()
        one, other = tmp_path / f"single{seed}", tmp_path / "all" / f"seed{seed}"
        assert metrics(one) == metrics(other)
        expected, found = (json.loads((folder / "summary.json").read_text()) for folder in (one, other))
        assert found["eval_return_mean"] == expected["eval_return_mean"]
        assert found["seed"] == seed
        assert (other / "curve.png").read_bytes().startswith(b"\x89PNG")
        scores.append(found["eval_return_mean"])
        assert f"seed{seed} " in captured.out
    summary = json.loads((tmp_path / "all" / "summary.json").read_text())
    assert summary == json.loads((tmp_path / "copy.json").read_text())
    assert summary["seeds"] == [3, 4]
    assert summary["eval_returns_mean"] == scores
    assert summary["eval_return_iqm"] == interquartile_mean(scores)
    assert summary["eval_return_interval"] == list(bootstrap_interval(scores))
    assert summary["steps_per_second"] == pytest.approx(2 * 960 / summary["wall_seconds"])
    seconds = [
        json.loads((tmp_path / "all" / f"seed{s}" / "summary.json").read_text())["train_seconds"] for s in (3, 4)
    ]
    assert max(seconds) <= summary["wall_seconds"] <= sum(seconds)
    assert (tmp_path / "all" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "IQM" in captured.out
    study = SeedStudy.open(tmp_path / "all")
    assert best_run(study.run_dirs).name == f"seed{3 + scores.index(max(scores))}"

    assert main(["plot", str(tmp_path / "all"), "--output", str(tmp_path / "plot.png")]) == 0
    assert (tmp_path / "plot.png").stat().st_size > 20_000
    with pytest.raises(RunDirectoryError, match="already holds a run"):
        train_seeds("Pendulum-v1", 2, tmp_path / "all", **SMALL)


def test_interrupt_saves_every_seed_and_says_how_to_go_on(tmp_path):
    run_dir = tmp_path / "interrupted"
    flags = ["--checkpoint-seconds", "1000", *FLAGS, "--eval-episodes", "0", "--run-dir", str(run_dir)]
    words = ["-m", "r2vpo.cli", "control", "train", "--env", "Pendulum-v1", "--total-steps", str(LONG), "--seeds", "2"]
    process = start(*words, "--quiet", *flags)
    ready = lambda: len(iterations(run_dir)) == 2 and iterations(run_dir)[0] >= 3  # noqa: E731
    assert f"--resume {run_dir}" in send_when(process, signal.SIGINT, ready)
    for seed in (0, 1):
        model = R2VPO.resume(run_dir / f"seed{seed}")
        assert 0 < model.num_timesteps == metrics(run_dir / f"seed{seed}")[-1]["step"] < LONG
        model.close()


def test_failed_seed_is_named_and_the_others_are_finished_once(tmp_path):
    run_dir = tmp_path / "failing"
    settings = {"env": "Pendulum-v1", "total_steps": 240, **SMALL}
    study = SeedStudy.create(run_dir, settings, 2)
    R2VPO(seed=0, run_dir=run_dir / "seed0", **settings).close()
    (run_dir / "seed0" / "checkpoints" / "latest.zip").write_text("not a checkpoint")
    with pytest.raises(R2VPOError, match=r"1 of 2 seeds failed; the first: seed 0: .*latest\.zip"):
        study.train()
    assert study.finished == [1]
    assert not (run_dir / "summary.json").exists()
    # Seed 0 begins again, and nothing of seed 1 is touched.
    (run_dir / "seed0" / "checkpoints" / "latest.zip").unlink()
    before = {path: path.stat().st_mtime_ns for path in (run_dir / "seed1").rglob("*")}
    assert study.train()["seeds"] == [0, 1]
    assert {path: path.stat().st_mtime_ns for path in (run_dir / "seed1").rglob("*")} == before


@pytest.mark.parametrize("seeds", ["0", "-2"])
def test_bad_number_of_seeds_starts_nothing(tmp_path, capsys, seeds):
    assert main(["control", "train", "--seeds", seeds, "--run-dir", str(tmp_path / "run")]) == 1
    assert f"seeds={seeds}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_bad_task_starts_nothing(tmp_path):
    with pytest.raises(ConfigError, match="No-v0"):
        train_seeds("No-v0", 2, tmp_path / "run")
    with pytest.raises(ConfigError, match="action_space"):
        train_seeds("CartPole-v1", 2, tmp_path / "run")
    with pytest.raises(ConfigError, match="lam=-1"):
        train_seeds("Pendulum-v1", 2, tmp_path / "run", lam=-1.0)
    assert not (tmp_path / "run").exists()


def test_directory_without_seeds_or_with_a_damaged_list(tmp_path):
    with pytest.raises(RunDirectoryError, match="holds no seeds"):
        SeedStudy.open(tmp_path)
    (tmp_path / "seeds.json").write_text("{")
    with pytest.raises(RunDirectoryError, match="damaged"):
        SeedStudy.open(tmp_path)


def test_processes_at_a_time_leave_each_its_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    config = resolve_config({"env": "Pendulum-v1"})
    assert SeedStudy(tmp_path, config, 20).workers == 8
    assert SeedStudy(tmp_path, config, 3).workers == 3
    threads = config_dict(config) | {"env_threads": 4}
    assert SeedStudy(tmp_path, resolve_config(threads), 20).workers == 2
