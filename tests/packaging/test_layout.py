"""A stranger reads the architecture from ``ls``: no crowded folder, no import circle, no long file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 320


@pytest.fixture(scope="module")
def measure(tmp_path_factory):
    pytest.importorskip("grimp")
    path = tmp_path_factory.mktemp("layout") / "measure.json"
    command = [sys.executable, str(ROOT / "scripts" / "layout.py"), "--no-ways", "--json", str(path)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    return json.loads(path.read_text())


def test_no_folder_holds_more_than_twenty_entries(measure):
    assert measure["folders over 20 entries"] == {}


def test_no_files_import_each_other(measure):
    assert measure["import circle"] == []


def test_no_file_is_long(measure):
    assert measure["longest file"][1] <= LONGEST


def test_help_shows_at_most_twenty_options(measure):
    shown = measure["options that --help shows"]
    assert shown["control"] <= 20
    assert shown["llm"] <= 20
