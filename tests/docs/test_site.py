"""The site builds without a warning and asks nobody for anything; its pictures are those of today's code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def test_no_page_loads_anything_from_elsewhere(site):
    loads = re.compile(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"?(https?:[^\" >]*)")
    for page in site.rglob("*.html"):
        if "report" not in page.parts:
            assert not loads.findall(page.read_text()), page


def test_every_setting_and_every_command_has_its_place(site):
    from dataclasses import fields

    from r2vpo.control.config import ControlConfig
    from r2vpo.llm.config import LLMConfig

    for name, kind in (("control", ControlConfig), ("llm", LLMConfig)):
        page = (site / "reference" / f"settings-{name}.html").read_text()
        assert not [f.name for f in fields(kind) if f"<code>{f.name}</code>" not in page]
    page = (site / "reference" / "commands.html").read_text()
    for command in ("control train", "control study", "llm train", "llm evaluate", "plot", "report", "bench control"):
        assert f"r2vpo {command}" in page
    assert "r2vpo/SparseReacher-v0" in (site / "tasks.html").read_text()


def test_every_flag_that_a_page_names_exists(site):
    from r2vpo.control.cli import TrainCommand

    text = "".join(page.read_text() for page in [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])
    named = set(re.findall(r"`(--[a-z][a-z-]+)", text))
    commands = (site / "reference" / "commands.html").read_text()
    settings = [(site / "reference" / f"settings-{name}.html").read_text() for name in ("control", "llm")]
    known = set(re.findall(r"--[a-z][a-z-]+", commands)) | {f"--{name}" for name in TrainCommand.ADVANCED}
    known |= {"--" + name.replace("_", "-") for page in settings for name in re.findall(r"<code>(\w+)</code>", page)}
    elsewhere = {"--multi", "--cfg", "--logprobs-mode", "--name", "--task"}  # of accelerate, verl, vLLM and a script
    assert not sorted(named - known - elsewhere)


def test_every_setting_has_a_line_of_help():
    from dataclasses import fields

    from docs_pages import TRAINERS, field_help

    for kind in TRAINERS.values():
        assert not [f.name for f in fields(kind) if not field_help(kind).get(f.name)]


def test_types_in_words():
    from typing import Annotated, Literal

    from annotated_types import Ge, Interval
    from docs_pages import type_words

    assert type_words(Annotated[int, Ge(1)]) == "int ≥ 1"
    assert type_words(Annotated[float, Interval(ge=0, le=1)] | None) == "float ≥ 0, ≤ 1 or None"
    assert type_words(tuple[Literal["a", "b"], ...]) == "several `a` or `b`"


@pytest.mark.parametrize("name", ["rollout", "completion"])
def test_pictures_of_the_architecture_are_up_to_date(name):
    import draw_architecture

    stops, back = draw_architecture.DRAWINGS[name]
    assert (ROOT / "docs" / "pictures" / f"{name}.svg").read_text() == draw_architecture.drawing(stops, back)


def test_readme_is_short_and_its_links_lead_somewhere():
    """Absolute, so that they work on the package index, as soon as pyproject.toml says where the repository is."""
    text = (ROOT / "README.md").read_text()
    assert len(text.encode()) <= 6000
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"].get("Repository", "")
    home = re.compile(rf"{re.escape(address)}/(?:blob|raw)/main/")
    targets = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "arxiv.org" not in link]
    assert targets
    for target in targets:
        if address:
            assert home.match(target), target
        assert (ROOT / home.sub("", target)).exists(), target


def test_pictures_are_small():
    for picture in (ROOT / "docs" / "pictures").iterdir():
        assert picture.stat().st_size < 2_000_000, picture


def test_benchmarks_are_described_and_few():
    entries = sorted(path.name for path in (ROOT / "benchmarks").iterdir())
    assert len(entries) <= 20
    text = (ROOT / "benchmarks" / "README.md").read_text()
    stems = {path.rsplit(".", 1)[0] if "." in path else path for path in entries if path != "README.md"}
    assert not sorted(stem for stem in stems if f"`{stem}" not in text)


def test_lines_of_the_study_are_whole():
    """What `r2vpo report benchmarks/control_500k` and the tables of docs/results/control.md are made from."""
    lines = [json.loads(line) for line in (ROOT / "benchmarks/control_500k/runs.jsonl").read_text().splitlines()]
    cells = {(line["env"], line["algo"], line["seed"], str(line.get("settings"))) for line in lines}
    assert len(cells) == len(lines) == 10 * 5 * 5
