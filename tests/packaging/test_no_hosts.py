"""Importing the library loads none of the libraries that its adapters extend."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement

HOSTS = ("stable_baselines3", "sb3_contrib", "tianshou", "trl", "verl", "rsl_rl", "prime_rl", "ray")


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
