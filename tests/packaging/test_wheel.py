"""The wheel: four folders of the tree become one importable package, and nothing else gets in."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMPORT_NAMES = {"r2vpo": "r2vpo", "envs": "r2vpo/envs", "llm": "r2vpo/llm", "control": "r2vpo/control"}
"""Folder in the tree: folder in the wheel."""

NOT_PACKAGED = [folder for folder in ("tests", "scripts", "benchmarks", "docs") if (ROOT / folder).is_dir()]
CACHES = shutil.ignore_patterns("__pycache__")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from a copy of the sources, since a build leaves its traces beside what it builds."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for folder in [*IMPORT_NAMES, *NOT_PACKAGED]:
        shutil.copytree(ROOT / folder, tree / folder, ignore=CACHES, symlinks=True)
    for file in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / file, tree)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(out), "."]
    done = subprocess.run(build, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_every_module_and_only_those(wheel: zipfile.ZipFile) -> None:
    modules = {
        f"{target}/{file.relative_to(ROOT / folder).as_posix()}"
        for folder, target in IMPORT_NAMES.items()
        for kind in ("*.py", "*.j2", "*.js", "py.typed")
        for file in (ROOT / folder).rglob(kind)
    }
    members = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert members == modules


def test_packages_import_from_the_wheel(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    wheel.extractall(site)
    code = (
        "import r2vpo, r2vpo.envs, r2vpo.llm, r2vpo.control\n"
        "for module in (r2vpo, r2vpo.envs, r2vpo.llm, r2vpo.control): print(module.__file__)"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [str(site / folder / "__init__.py") for folder in IMPORT_NAMES.values()]


def test_command_points_at_a_function_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    scripts = configparser.ConfigParser()
    scripts.read_string(wheel.read(name).decode())
    module, function = scripts["console_scripts"]["r2vpo"].split(":")
    assert f"def {function}(" in wheel.read(f"{module.replace('.', '/')}.py").decode()
