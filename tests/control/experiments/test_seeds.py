"""Several seeds at once: each is the single run of its seed, and nothing that was trained is lost or done twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from resuming import assert_same_tree, metrics
from rich.console import Console

from r2vpo.cli import main
from r2vpo.control import R2VPO
from r2vpo.control.experiments.seed_summary import best_run
from r2vpo.control.experiments.seeds import SeedStudy, train_seeds
from r2vpo.control.presets import config_dict, resolve_config
from r2vpo.errors import ConfigError, R2VPOError, RunDirectoryError
from r2vpo.runs.checkpoint import load_tree
from r2vpo.runs.live_table import LiveTable
from r2vpo.stats import bootstrap_interval, interquartile_mean

SMALL = {"num_envs": 3, "rollout_steps": 40, "minibatch_size": 30, "epochs": 2, "eval_episodes": 0}
LONG = 6_000
"""Long enough for a kill to come in between."""


def start(run_dir, *more):
    words = ["--env", "Pendulum-v1", "--total-steps", str(LONG), "--seeds", "2", "--quiet", "--run-dir", str(run_dir)]
    words += ["--num-envs", "3", "--rollout-steps", "40", "--minibatch-size", "30", "--epochs", "2"]
    words += ["--eval-episodes", "0", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "r2vpo.cli", "control", "train", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(condition, process):
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        if condition():
            return
        time.sleep(0.01)
    pytest.fail(process.stdout.read() if process.poll() is not None else "too slow")


def lines_of(run_dir):
    path = run_dir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The single runs that the seeds of ``start`` are to equal."""
    folder = tmp_path_factory.mktemp("single")
    for seed in (0, 1):
        model = R2VPO("Pendulum-v1", seed=seed, run_dir=folder / f"seed{seed}", total_steps=LONG, **SMALL)
        model.learn()
        model.close()
    return folder


def assert_same_runs(one, other):
    for seed in ("seed0", "seed1"):
        assert metrics(one / seed) == metrics(other / seed)
        trees = [load_tree(folder / seed / "checkpoints" / "latest.zip") for folder in (one, other)]
        for tree in trees:  # what makes no difference to the numbers, and differs
            del tree["config"]["env_threads"], tree["config"]["checkpoint_seconds"]
        assert_same_tree(*trees)


def test_every_seed_is_its_single_run_and_the_summary_is_theirs(tmp_path, capsys):
    settings = SMALL | {"eval_episodes": 2}
    words = ["--env", "Pendulum-v1", "--total-steps", "960", "--seeds", "2", "--seed", "3", "--quiet"]
    words += ["--num-envs", "3", "--rollout-steps", "40", "--minibatch-size", "30", "--epochs", "2"]
    words += ["--eval-episodes", "2", "--run-dir", str(tmp_path / "all"), "--json", str(tmp_path / "copy.json")]
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
    assert (tmp_path / "all" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "IQM" in captured.out
    study = SeedStudy.open(tmp_path / "all")
    assert best_run(study.run_dirs).name == f"seed{3 + scores.index(max(scores))}"

    assert main(["plot", str(tmp_path / "all"), "--output", str(tmp_path / "plot.png")]) == 0
    assert (tmp_path / "plot.png").stat().st_size > 20_000
    with pytest.raises(RunDirectoryError, match="already holds a run"):
        train_seeds("Pendulum-v1", 2, tmp_path / "all", **SMALL)


@pytest.mark.slow
def test_killed_study_resumes_to_the_same_end(tmp_path, single):
    run_dir = tmp_path / "killed"
    process = start(run_dir, "--checkpoint-seconds", "0")
    wait_until(lambda: min(lines_of(run_dir / "seed0"), lines_of(run_dir / "seed1")) >= 5, process)
    process.kill()
    process.wait()
    assert lines_of(run_dir / "seed0") < LONG // 120

    study = SeedStudy.open(run_dir)
    (run_dir / "runs.jsonl").write_text('{"seed": 0, "figu')  # as a kill in mid-write leaves it
    assert main(["control", "train", "--quiet", "--resume", str(run_dir)]) == 0
    assert study.finished == [0, 1]
    assert_same_runs(run_dir, single)

    shutil.rmtree(run_dir / "seed1")
    assert study.finished == [0]


def test_interrupt_saves_every_seed_and_says_how_to_go_on(tmp_path, single):
    run_dir = tmp_path / "interrupted"
    process = start(run_dir, "--checkpoint-seconds", "1000")
    wait_until(lambda: min(lines_of(run_dir / "seed0"), lines_of(run_dir / "seed1")) >= 3, process)
    os.kill(process.pid, signal.SIGINT)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 130, output
    assert f"--resume {run_dir}" in output
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


def test_live_table_has_a_row_a_run_and_their_totals(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    table = LiveTable("seed", {s: (str(s), 1000) for s in range(4)}, ("return", "lambda"), quiet=True)
    table.update(0, "done", 1000, {"return": 321.0})  # before this process began
    table.update(1, "waiting", 200, {})
    table.update(1, "starting", 0, {})
    table.update(1, "training", 100, {"return": None, "lambda": 0.5})
    now[0] += 10.0
    table.update(1, "training", 600, {"return": 12.34})
    table.update(2, "failed", 0, {})
    console = Console(record=True, width=120, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(table.render())
    rows = {cells[0]: cells for cells in map(_cells, console.export_text().split("\n")) if len(cells) > 1}
    assert list(rows) == ["seed", "0", "1", "2", "3", "all"]
    assert rows["seed"][1:] == ["state", "progress", "", "steps/s", "ETA", "return", "lambda"]
    assert rows["0"][1::2] == ["done", "100 %", "-", "-"]
    assert rows["0"][6] == "321.0"
    assert rows["1"][3:] == ["60 %", "50", "0:08", "12.3", "0.500"]
    assert rows["2"][1] == "failed"
    assert rows["3"][1] == "waiting"
    assert rows["all"][1] == "1/4 done"
    assert rows["all"][3:6] == ["40 %", "50", "0:28"]


def test_live_table_is_a_line_without_a_terminal(capsys):
    with LiveTable("seed", {0: ("0", 10), 1: ("1", 10)}, ("return",)) as table:
        table.update(0, "training", 5, {"return": 20.0})
        table.update(0, "training", 6, {})
        table.update(0, "done", 10, {})
        table.update(1, "done", 10, {})
    lines = capsys.readouterr().err.strip().split("\n")
    assert len(lines) == 2
    assert "0/2 seeds" in lines[0]
    assert "seed 0 50 % return 20.0" in lines[0]
    assert lines[1].startswith("2/2 seeds  20/20 steps")


def _cells(line):
    return [cell.strip() for cell in line.replace("┃", "│").split("│")[1:-1]]
