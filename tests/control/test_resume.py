"""2N steps equal N + resume + N, bit for bit, and a killed run goes on."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from resuming import ITERATION, SMALL, StopAfter, assert_same_tree, metrics

from r2vpo.control import R2VPO
from r2vpo.envs.tasks import TASKS
from r2vpo.runs.checkpoint import load_tree


@pytest.mark.parametrize(
    ("env", "settings"),
    [
        ("HalfCheetah-v5", {"algo": "on-policy"}),
        ("HalfCheetah-v5", {"algo": "off-policy"}),
        ("Hopper-v5", {"algo": "off-policy", "replay_advantages": "stored"}),
        ("Ant-v5", {"algo": "off-policy"}),
        ("HalfCheetah-v5", {"algo": "on-policy", "overlap": True}),
        ("Hopper-v5", {"algo": "off-policy", "overlap": True, "engine": "gymnasium"}),
        ("Pendulum-v1", {"algo": "on-policy", "objective": "ppo_clip", "action_bounds": "tanh"}),
        *((task.id, {"algo": "off-policy"}) for task in TASKS if task.entry_point),
    ],
)
def test_resumed_run_is_the_uninterrupted_run(tmp_path, env, settings):
    whole = R2VPO(env, seed=3, run_dir=tmp_path / "whole", total_steps=8 * ITERATION, **SMALL, **settings)
    whole.learn()
    whole.close()
    first = R2VPO(env, seed=3, run_dir=tmp_path / "parts", total_steps=8 * ITERATION, **SMALL, **settings)
    first.learn(callback=StopAfter(4))
    assert first.num_timesteps == 4 * ITERATION
    first.close()
    second = R2VPO.resume(tmp_path / "parts")
    assert second.num_timesteps == 4 * ITERATION
    second.learn()
    second.close()
    one, other = (load_tree(tmp_path / name / "checkpoints" / "latest.zip") for name in ("whole", "parts"))
    assert_same_tree(one, other)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


def test_engines_and_their_threads_give_the_same_run():
    weights = []
    for settings in (
        {"engine": "gymnasium"},
        {"engine": "native", "env_threads": 1},
        {"engine": "native", "env_threads": 3},
    ):
        model = R2VPO("Walker2d-v5", seed=5, **SMALL, **settings).learn(4 * ITERATION)
        weights.append(torch.cat([p.flatten() for p in model.learner.policy.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


def test_runs_with_different_seeds_differ(tmp_path):
    weights = []
    for seed in (0, 1):
        model = R2VPO("Pendulum-v1", seed=seed, **SMALL).learn(2 * ITERATION)
        weights.append(model.learner.policy.network[0].weight)
    assert not torch.equal(*weights)


def test_saved_model_trains_on_as_the_original(tmp_path):
    model = R2VPO("Hopper-v5", seed=1, total_steps=8 * ITERATION, **SMALL)
    model.learn(callback=StopAfter(3))
    model.save(tmp_path / "half.zip")
    model.learn()
    copy = R2VPO.load(tmp_path / "half.zip")
    copy.learn()
    for one, other in zip(model.learner.policy.parameters(), copy.learner.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_loading_a_run_directory_takes_its_checkpoint(tmp_path):
    model = R2VPO("Pendulum-v1", seed=1, run_dir=tmp_path / "run", **SMALL)
    model.learn(2 * ITERATION)
    model.close()
    copy = R2VPO.load(tmp_path / "run")
    assert copy.num_timesteps == model.num_timesteps
    for one, other in zip(model.learner.policy.parameters(), copy.learner.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def start_training(run_dir, *more):
    words = ["-m", "r2vpo.cli", "control", "train", "--env", "Hopper-v5", "--total-steps", "36000", "--quiet"]
    words += ["--num-envs", "3", "--rollout-steps", "40", "--minibatch-size", "30", "--epochs", "2"]
    words += ["--checkpoint-seconds", "0", "--eval-episodes", "0", "--run-dir", str(run_dir), *more]
    return subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_lines(run_dir, lines, process):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        path = run_dir / "metrics.jsonl"
        if path.exists() and path.read_text().count("\n") >= lines:
            return
        time.sleep(0.01)
    pytest.fail(f"no {lines} lines of metrics: {process.stdout.read() if process.poll() is not None else 'slow'}")


def test_killed_run_resumes_to_the_same_end(tmp_path):
    settings = {"num_envs": 3, "rollout_steps": 40, "minibatch_size": 30, "epochs": 2, "eval_episodes": 0}
    reference = R2VPO("Hopper-v5", run_dir=tmp_path / "whole", total_steps=36000, **settings)
    reference.learn(callback=StopAfter(90))
    reference.close()
    process = start_training(tmp_path / "killed")
    for lines in (3, 20):
        wait_for_lines(tmp_path / "killed", lines, process)
        process.kill()
        process.wait()
        (tmp_path / "killed" / "metrics.jsonl").open("a").write('{"step": 12')  # as a kill in mid-write leaves it
        resume = [sys.executable, "-m", "r2vpo.cli", "control", "train", "--quiet", "--resume"]
        process = subprocess.Popen(
            [*resume, str(tmp_path / "killed")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    wait_for_lines(tmp_path / "killed", 60, process)
    process.kill()
    process.wait()
    expected, found = metrics(tmp_path / "whole"), metrics(tmp_path / "killed")
    assert len(found) >= 60
    common = min(len(found), len(expected))
    assert found[:common] == expected[:common]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_saves_and_says_how_to_go_on(tmp_path, number):
    process = start_training(tmp_path / "run", "--checkpoint-seconds", "1000")
    wait_for_lines(tmp_path / "run", 3, process)
    os.kill(process.pid, number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert f"--resume {tmp_path / 'run'}" in output
    last = metrics(tmp_path / "run")[-1]["step"]
    model = R2VPO.resume(tmp_path / "run")
    assert model.num_timesteps == last > 0
    model.close()
