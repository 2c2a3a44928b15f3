"""The exported file answers as the agent does, by itself, and no other file is left."""

import json
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from small_envs import IdentityEnv

from r2vpo import cli
from r2vpo.control import R2VPO
from r2vpo.control.sharing import export
from r2vpo.control.sharing.export import export_policy
from r2vpo.errors import ConfigError, R2VPOError, RunDirectoryError

SMALL = {"num_envs": 2, "rollout_steps": 32, "minibatch_size": 32, "epochs": 2, "eval_episodes": 0}
EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "run_onnx.py"


class FarEnv(IdentityEnv):
    """Sees the time of day beside the identity, in a box of two rows; acts in a column without upper bounds."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2, 2), np.float64)
    action_space = gym.spaces.Box(np.float32([[-3.0], [0.0]]), np.float32([[1.0], [np.inf]]))

    def _draw(self):
        self.state = np.float32([[0.3], [0.2]])
        return np.array([[80_000.0 + 0.01 * self.steps, 0.3], [1e9 + self.steps, 0.2]])


def trained(env=IdentityEnv, **settings):
    model = R2VPO(env, **SMALL, **settings)
    return model.learn(256)


def seen(model, rows=64):
    env = model._training.env_source()
    observations = [env.reset(seed=0)[0]]
    for _ in range(rows - 1):
        action = model.predict(observations[-1])[0]
        observations.append(env.step(action)[0])
    return np.array(observations)


def answers(path, observations):
    if path.suffix == ".pt":
        return torch.jit.load(path)(torch.from_numpy(observations)).numpy()
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(path).run(None, {"observations": observations})[0]


@pytest.mark.parametrize(
    ("kind", "env", "settings"),
    [
        ("torchscript", IdentityEnv, {"action_bounds": "tanh"}),
        ("torchscript", IdentityEnv, {"normalize_observations": False, "action_bounds": "clip"}),
        ("torchscript", FarEnv, {}),
        ("onnx", IdentityEnv, {"action_bounds": "tanh", "hidden_sizes": (8, 8, 8)}),
        ("onnx", FarEnv, {}),
    ],
)
def test_the_file_answers_as_predict_does_for_one_and_for_many(kind, env, settings, tmp_path):
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    model = trained(env, **settings)
    path = tmp_path / f"policy{export.SUFFIXES[kind]}"
    assert export_policy(model, path, kind) <= 1e-5
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    observations = seen(model).astype(np.float64 if env is FarEnv else np.float32)
    wanted, _ = model.predict(observations, deterministic=True)
    assert np.ptp(wanted) > 0
    found = answers(path, observations)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-5 * max(1.0, np.abs(wanted).max())
    assert np.abs(answers(path, observations[:1]) - wanted[:1]).max() <= 1e-5 * max(1.0, np.abs(wanted).max())


def test_times_of_day_are_told_apart_by_the_file(tmp_path):
    model = trained(FarEnv)
    export_policy(model, tmp_path / "policy.pt", "torchscript")
    one, other = (np.array([[[80_000.0 + late, 0.3], [1e9, 0.2]]]) for late in (0.0, 0.01))
    assert (answers(tmp_path / "policy.pt", one) != answers(tmp_path / "policy.pt", other)).any()


@pytest.mark.parametrize("part", ["normaliser", "bounds"])
def test_a_file_that_answers_otherwise_is_not_written(part, tmp_path, monkeypatch):
    model = trained()
    if part == "bounds":
        monkeypatch.setattr(export._Bounds, "forward", lambda self, samples: samples * 1.001)
    else:
        original = export.DeployedPolicy.forward
        monkeypatch.setattr(export.DeployedPolicy, "forward", lambda self, rows: original(self, rows + 0.01))
    with pytest.raises(R2VPOError, match="from predict, more than 1e-05: not written"):
        export_policy(model, tmp_path / "policy.pt", "torchscript")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_said(tmp_path, monkeypatch):
    model = trained()
    with pytest.raises(ConfigError, match="format='gguf' is not allowed: format must be one of onnx, torchscript"):
        export_policy(model, tmp_path / "policy.gguf", "gguf")
    with pytest.raises(RunDirectoryError, match="cannot be written: Is a directory"):
        export_policy(model, tmp_path, "torchscript")
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        export_policy(model, tmp_path / "file" / "policy.pt", "torchscript")
    monkeypatch.setattr(export, "_PACKAGES", ("numpy", "no_such_package"))
    with pytest.raises(ConfigError, match=r"no_such_package is missing: pip install 'r2vpo\[export\]'"):
        export_policy(model, tmp_path / "policy.onnx")


def test_a_run_is_exported_and_drives_its_task_without_this_library(tmp_path, capsys):
    pytest.importorskip("onnxscript")
    run = tmp_path / "run"
    R2VPO("InvertedPendulum-v5", run_dir=run, **SMALL).learn(256).close()
    assert cli.main(["control", "export", str(tmp_path / "none")]) == 1
    assert "no run or model at" in capsys.readouterr().err
    assert cli.main(["control", "export", str(run)]) == 0
    path = run / "policy.onnx"
    assert str(path) in capsys.readouterr().out
    code = (
        f"import sys, runpy; sys.argv = ['run_onnx.py', {str(path)!r}, '--steps', '200']\n"
        f"runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')\n"
        "assert not {'torch', 'r2vpo'} & set(sys.modules), 'loaded'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["steps"] == 200
    model = R2VPO.load(run)
    env = gym.make("InvertedPendulum-v5")
    observation, _ = env.reset(seed=0)
    action, _ = model.predict(observation, deterministic=True)
    assert said["first_action"] == pytest.approx(action.tolist(), abs=1e-5)
