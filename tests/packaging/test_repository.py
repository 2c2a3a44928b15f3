"""What stands around the code: workflows, templates, hooks, image and links say what is there."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", WORKFLOWS),
        (
            "github-issue-forms",
            sorted(set((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")) - {GITHUB / "ISSUE_TEMPLATE/config.yml"}),
        ),
        ("github-issue-config", [GITHUB / "ISSUE_TEMPLATE" / "config.yml"]),
        ("citation-file-format", [ROOT / "CITATION.cff"]),
    ],
)
def test_files_follow_their_schema(schema, files):
    pytest.importorskip("check_jsonschema")
    assert files
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, files)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def jobs():
    return {name: job for path in WORKFLOWS for name, job in yaml.safe_load(path.read_text())["jobs"].items()}


def test_workflows_call_what_there_is():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    steps = [step for job in jobs().values() for step in job["steps"]]
    called = {target for step in steps for target in re.findall(r"\bmake ([\w-]+)", step.get("run", ""))}
    assert {"check", "test", "docs"} <= called <= targets
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", step["uses"]) for step in steps if "uses" in step)
    assert all("timeout-minutes" in job for job in jobs().values())


def test_every_python_that_is_promised_is_tested():
    matrix = jobs()["test"]["strategy"]["matrix"]
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert matrix["python"][0] == oldest
    assert matrix["python"] == [f"3.{minor}" for minor in range(11, 14)]
    assert "macos-latest" in {row["os"] for row in matrix["include"]}


def test_a_release_is_published_without_a_secret():
    text = (GITHUB / "workflows" / "release.yml").read_text()
    publish = jobs()["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["needs"] == "build"
    assert "secrets." not in text
    assert "password" not in text


def test_hooks_have_the_versions_of_the_tests():
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    found = {repo["repo"].rpartition("/")[2]: repo["rev"].removeprefix("v") for repo in repos}
    assert found == {"ruff-pre-commit": CONSTRAINTS["ruff"], "check-jsonschema": CONSTRAINTS["check-jsonschema"]}


def test_the_image_is_built_from_what_is_sent_to_it():
    text = (ROOT / "Dockerfile").read_text()
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {word for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for word in line.split()[:-1]}
    assert copied == sent
    assert all((ROOT / name).exists() for name in copied)
    extras = {name for found in re.findall(r"/opt/r2vpo\[([\w,-]+)\]", text) for name in found.split(",")}
    assert extras <= set(PROJECT["optional-dependencies"])
    assert {"cpu", "gpu"} <= set(re.findall(r"^FROM \S+ AS (\w+)$", text, re.MULTILINE))
    assert text.index("AS gpu") < text.index("AS cpu"), "the last one is what `docker build .` makes"


def test_links_and_badges_wait_for_an_address():
    """Relative links work in a clone and not on the package index: they turn absolute once there is a Repository."""
    readme = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)\s]+)", readme)
    relative = [link for link in links if not re.match(r"https?://|#", link)]
    if "Repository" in PROJECT["urls"]:
        assert not relative, "PyPI shows README.md without the files beside it"
        return
    assert relative
    assert all((ROOT / link.split("#")[0]).exists() for link in relative)
    of_nowhere = re.compile(
        r"actions/workflows|img\.shields\.io/(pypi|github)|pypi\.org/project/r2vpo|codecov|pip install r2vpo\b"
    )
    assert not of_nowhere.findall(readme)
