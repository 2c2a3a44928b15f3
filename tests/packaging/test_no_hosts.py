"""Importing the library loads none of the libraries that its adapters extend."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement

HOSTS = ("stable_baselines3", "sb3_contrib", "tianshou", "trl", "verl", "rsl_rl", "prime_rl", "ray")

SHARING = ("onnx", "onnxruntime", "onnxscript", "plotly", "huggingface_hub")


@pytest.mark.parametrize("package", ["r2vpo", "r2vpo.control", "r2vpo.llm"])
def test_importing_a_package_loads_no_host(package):
    if package != "r2vpo":
        pytest.importorskip({"r2vpo.control": "gymnasium", "r2vpo.llm": "transformers"}[package])
    code = f"import sys, {package}; print(sorted(set(sys.modules) & set({HOSTS!r})))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_the_bare_package_requires_no_host():
    always = {
        requirement.name.replace("-", "_")
        for requirement in map(Requirement, requires("r2vpo") or [])
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    }
    assert "torch" in always
    assert not always & {*HOSTS, "rsl_rl_lib", "transformers", "gymnasium", "vllm"}


def test_training_robots_requires_nothing_of_export_report_and_hub():
    asked = {
        requirement.name
        for requirement in map(Requirement, requires("r2vpo") or [])
        if requirement.marker is None or requirement.marker.evaluate({"extra": "control"})
    }
    assert "gymnasium" in asked
    assert not asked & set(SHARING)


def test_robots_train_without_what_export_report_and_hub_need():
    pytest.importorskip("gymnasium")
    code = (
        f"import sys; [sys.modules.__setitem__(name, None) for name in {SHARING!r}]\n"
        "from r2vpo.control import R2VPO\n"
        "import r2vpo.control.cli, r2vpo.control.report.command, r2vpo.control.sharing.export, r2vpo.runs.hub\n"
        "R2VPO('InvertedPendulum-v5', num_envs=2, rollout_steps=8, minibatch_size=8, epochs=1).learn(16)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
