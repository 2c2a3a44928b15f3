"""The command line as a user types it."""

import json
import os
import subprocess
import sys

import pytest

from r2vpo.cli import main
from r2vpo.runs.directory import RunDirectory, read_metrics

QUICK = ["--env", "Pendulum-v1", "--num-envs", "4", "--rollout-steps", "64", "--minibatch-size", "64"]
METRICS = {"step", "time", "return", "ratio_variance", "lam", "ess", "max_ratio", "sign_flip", "kl", "entropy"}
SUMMARY = {
    "env",
    "algo",
    "objective",
    "seed",
    "total_steps",
    "eval_return_mean",
    "eval_return_std",
    "eval_episodes",
    "steps_per_second",
    "train_seconds",
    "versions",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    words = ["control", "train", *QUICK, "--total-steps", "2048", "--run-dir", str(folder / "run")]
    assert main([*words, "--eval-episodes", "3", "--json", str(folder / "summary.json")]) == 0
    return folder / "run"


def test_run_directory_holds_what_the_contract_names(run):
    names = {path.name for path in run.iterdir()}
    assert names >= {"config.json", "versions.json", "metrics.jsonl", "summary.json", "curve.png", "checkpoints"}
    assert any(name.startswith("events.out.tfevents") for name in names)
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary) >= SUMMARY
    assert summary["total_steps"] == 2048
    assert summary == json.loads((run.parent / "summary.json").read_text())
    lines = read_metrics(run)
    assert [line["step"] for line in lines] == list(range(256, 2049, 256))
    assert all(set(line) >= METRICS for line in lines)
    assert (run / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_tensorboard_reads_the_events(run):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(run))
    events.Reload()
    assert [event.step for event in events.Scalars("ratio_variance")] == list(range(256, 2049, 256))


def test_evaluate_a_run_and_write_json(run, tmp_path, capsys):
    assert main(["control", "evaluate", str(run), "--episodes", "3", "--json", str(tmp_path / "e.json")]) == 0
    document = json.loads((tmp_path / "e.json").read_text())
    assert document["eval_return_mean"] == json.loads((run / "summary.json").read_text())["eval_return_mean"]
    assert len(document["eval_returns"]) == 3
    assert "Pendulum-v1" in capsys.readouterr().out


def test_plot_several_runs(run, tmp_path, capsys):
    assert main(["plot", str(run), str(run), "--output", str(tmp_path / "both.png")]) == 0
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.strip() == str(tmp_path / "both.png")


def test_run_says_which_engine_steps_the_environments(tmp_path, capsys):
    words = ["control", "train", "--total-steps", "64", "--num-envs", "2", "--rollout-steps", "16", "--quiet"]
    words += ["--minibatch-size", "16", "--eval-episodes", "0"]
    for env, engine in (("Hopper-v5", "native"), ("Pendulum-v1", "gymnasium")):
        assert main([*words, "--env", env, "--run-dir", str(tmp_path / env)]) == 0
        assert f"({engine}: " in capsys.readouterr().out.replace("\n", " ")


def test_finished_run_resumes_to_nothing(run, capsys):
    before = read_metrics(run)
    assert main(["control", "train", "--resume", str(run), "--quiet"]) == 0
    assert read_metrics(run) == before


def test_resume_takes_no_settings(run, capsys):
    with pytest.raises(SystemExit):
        main(["control", "train", "--resume", str(run), "--lam", "3"])
    assert "--lam" in capsys.readouterr().err


def test_objective_and_hyperparameters_reach_the_run(tmp_path):
    words = [*QUICK, "--total-steps", "256", "--eval-episodes", "0", "--quiet"]
    words += [
        "--objective",
        "ppo_clip",
        "--objective-kwargs",
        "eps",
        "0.3",
        "--algo",
        "on-policy",
        "--run-dir",
        str(tmp_path / "run"),
    ]
    assert main(["control", "train", *words]) == 0
    with RunDirectory(tmp_path / "run") as directory:
        config = directory.config()
    assert (config["objective"], config["objective_kwargs"], config["algo"]) == ("ppo_clip", {"eps": 0.3}, "on-policy")


@pytest.mark.parametrize(
    "words", [["--help"], ["control", "--help"], ["control", "train", "--help"], ["control", "compare", "--help"]]
)
def test_help_answers_without_loading_torch(words):
    code = (
        "import sys\nfrom r2vpo.cli import main\n"
        "try: status = main(sys.argv[1:])\nexcept SystemExit as exit_: status = exit_.code\n"
        "assert not status, status\n"
        "heavy = {'torch', 'gymnasium', 'mujoco', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "usage: r2vpo" in result.stdout


def test_video_is_written(run):
    gl = subprocess.run(
        [sys.executable, "-c", "import mujoco; mujoco.GLContext(64, 64)"],
        env={**os.environ, "MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl")},
        capture_output=True,
    )
    if gl.returncode:
        pytest.skip("this machine cannot render off screen")
    code = (
        "from pathlib import Path; from r2vpo.control.pictures import record_video; import numpy as np, sys\n"
        "act = lambda observations: np.zeros((len(observations), 3))\n"
        "record_video(act, 'Hopper-v5', Path(sys.argv[1]), seed=0, max_steps=10, size=96)"
    )
    subprocess.run([sys.executable, "-c", code, str(run / "video.mp4")], check=True)
    import imageio.v3 as imageio

    assert imageio.imread(run / "video.mp4").shape == (10, 96, 96, 3)
