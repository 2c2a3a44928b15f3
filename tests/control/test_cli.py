"""The command line as a user types it."""

import json
import os
import shutil
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
    assert [event.step for event in events.Scalars("train/ratio_variance")] == list(range(256, 2049, 256))


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


def test_the_picture_of_several_runs_replaces_that_of_none(run, tmp_path, capsys, monkeypatch):
    before = (run / "curve.png").read_bytes()
    shutil.copytree(run, tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    assert main(["plot", str(run), "other"]) == 0
    assert capsys.readouterr().out.strip() == "curves.png"
    assert (tmp_path / "curves.png").is_file()
    assert (run / "curve.png").read_bytes() == (tmp_path / "other" / "curve.png").read_bytes() == before


def test_a_film_replaces_no_other(run, tmp_path, capsys, monkeypatch):
    model = shutil.copytree(run, tmp_path / "run")

    def film(policy, env, path, *_, **__):
        path.write_text(env)
        return path

    monkeypatch.setattr("r2vpo.control.pictures.watching.record_video", film)
    for name in ("video.mp4", "video-2.mp4", "video-3.mp4"):
        assert main(["control", "evaluate", str(model), "--episodes", "1", "--video"]) == 0
        assert capsys.readouterr().out.split()[-1] == str(model / name)
    monkeypatch.chdir(tmp_path)
    assert main(["control", "train", "--resume", "run", "--quiet", "--video"]) == 0
    assert "video       run/video-4.mp4" in capsys.readouterr().out
    monkeypatch.setattr("r2vpo.control.pictures.watching.record_video", lambda *_, **__: 1 / 0)
    assert main(["control", "train", "--resume", str(model), "--quiet", "--video"]) == 0
    said = capsys.readouterr()
    assert "no video: ZeroDivisionError" in said.err
    assert "video " not in said.out
    assert len(list(model.glob("*.mp4"))) == 4


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


def test_finished_run_is_extended(tmp_path, capsys):
    words = [*QUICK, "--total-steps", "512", "--eval-episodes", "1", "--quiet", "--run-dir", str(tmp_path / "run")]
    assert main(["control", "train", *words, "--lr-schedule", "linear"]) == 0
    extend = ["control", "train", "--quiet", "--resume", str(tmp_path / "run"), "--total-steps"]
    assert main([*extend, "1024"]) == 0
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [256, 512, 768, 1024]
    # The schedule begins anew over what is added.
    assert [line["learning_rate"] for line in lines] == pytest.approx([3e-4, 1.5e-4, 3e-4, 1.5e-4])
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["total_steps"] == 1024
    assert main([*extend, "1024"]) == 0  # it has so many already
    assert read_metrics(tmp_path / "run") == lines
    assert main([*extend, "768"]) == 1
    assert "total_steps=768 is not allowed: total_steps must be above 1,024" in capsys.readouterr().err


def test_what_an_evaluation_lacks_is_said(tmp_path, capsys, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import gymnasium as gym\n"
        "from gymnasium.envs.classic_control import PendulumEnv\n"
        "class Mine(PendulumEnv):\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        if seed is not None and 1_000_000 <= seed < 1_000_100: raise RuntimeError('no window')\n"
        "        return super().reset(seed=seed, options=options)\n"
        "gym.register('Mine-v0', Mine, max_episode_steps=200)\n"
    )
    monkeypatch.chdir(tmp_path)
    words = [*QUICK[2:], "--env", "mine:Mine-v0", "--total-steps", "256", "--quiet", "--run-dir", "run"]
    with pytest.warns(UserWarning, match="no evaluation"):
        assert main(["control", "train", *words]) == 0  # found in the current folder
    said = capsys.readouterr()
    assert "no evaluation: EnvironmentFailure" in said.err
    assert "no window" in said.err
    assert "summary" in said.out
    assert main(["control", "evaluate", "run", "--episodes", "1", "--seed", "5", "--max-episode-steps", "7"]) == 0
    assert "over 1 episodes" in capsys.readouterr().out


def test_arguments_of_the_environment(tmp_path):
    words = [*QUICK, "--total-steps", "256", "--quiet", "--eval-episodes", "1", "--run-dir", str(tmp_path / "run")]
    assert main(["control", "train", *words, "--env-kwargs", "g", "1.5"]) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["env_kwargs"] == {"g": 1.5}
    assert main(["control", "train", "--quiet", "--resume", str(tmp_path / "run")]) == 0


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

    # Ten steps of 8 ms are 80 ms, and a film has 30 frames a second.
    assert imageio.imread(run / "video.mp4").shape == (3, 96, 96, 3)
