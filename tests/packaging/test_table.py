"""The table of reported inputs in tests/README.md: every test that it names exists."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_NAMED = re.compile(r"`(tests/[\w/]+\.py)?::(\w+)`")


def test_every_row_names_tests_that_exist():
    rows = [line.split("|")[1:3] for line in (ROOT / "tests" / "README.md").read_text().splitlines() if line[:1] == "|"]
    kinds = [row for row in rows if row[0].startswith(" **")]
    assert [row[0][3] for row in kinds] == list("ABCDEFGH")
    for what, where in rows[2:]:
        found, path = _NAMED.findall(where), ""
        assert bool(found) != ([what, where] in kinds), what
        assert len(found) == where.count("`") // 2, f"something else than a test is named for {what}"
        for file, test in found:
            path = file or path
            assert test in functions_of(path), f"{path}::{test}"


def functions_of(path):
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
