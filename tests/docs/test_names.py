"""Every file, module and symbol that the documentation names exists."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMPORT_NAMES = {"r2vpo": "r2vpo", "envs": "r2vpo.envs", "control": "r2vpo.control", "llm": "r2vpo.llm"}
FOLDERS = (*IMPORT_NAMES, "benchmarks", "docs", "examples", "scripts", "tests")
PAGES = [
    *(ROOT / page for page in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "docs").rglob("*.svg")),
    *sorted(path for path in (ROOT / "examples").rglob("*") if path.is_file() and "__pycache__" not in path.parts),
]
_PATH = re.compile(rf"(?<![\w./:-])(?:{'|'.join(FOLDERS)})/[\w./*-]*")
_MODULE = re.compile(r"\br2vpo(?:\.\w+)+")
_OF_OTHERS = {"r2vpo.json"}
_TASK = re.compile(r"r2vpo/\w+-v\d")
_OF_THE_PAST = re.compile(r"`git show [^`]*`")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_path_exists(page):
    text = _OF_THE_PAST.sub("", page.read_text())
    paths = {found.rstrip(".") for found in _PATH.findall(text) if not _TASK.match(found)}
    assert not sorted(path for path in paths if not list(ROOT.glob(path.rstrip("/"))))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_module_and_symbol_exists(page):
    assert not sorted(found for found in set(_MODULE.findall(page.read_text())) - _OF_OTHERS if not exists(found))


def exists(dotted: str) -> bool:
    """Whether a module, or a name in one, is in the sources; nothing but the modules' text is read."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        file = source(parts[:cut])
        if file is not None:
            inside = parts[cut:]
            return not inside or inside[0] in defined(file)
    return False


def source(parts: list[str]) -> Path | None:
    folder = ROOT / (parts[1] if len(parts) > 1 and parts[1] in IMPORT_NAMES else "r2vpo")
    rest = parts[2:] if folder.name != "r2vpo" else parts[1:]
    path = folder.joinpath(*rest)
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((file for file in candidates if file.is_file()), None)


def defined(file: Path) -> set[str]:
    """Names at the top level of a module, those it loads on first use among them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def test_pages_that_the_code_refers_to_exist():
    sources = [file for folder in (*IMPORT_NAMES, "scripts") for file in (ROOT / folder).rglob("*.py")]
    named = {path for file in sources for path in re.findall(r"\bdocs/[\w/]+\.\w+", file.read_text())}
    assert not sorted(path for path in named if not (ROOT / path).exists())


def rows(page: str, heading: str) -> list[list[str]]:
    """Cells of the table whose header begins with ``heading``."""
    lines = [line.strip() for line in (ROOT / page).read_text().splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |")) + 2
    found = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_extending_answers_each_question_with_a_file_that_holds_the_name():
    answers = rows("docs/extending.md", "where")
    assert len(answers) == 8
    for question, files, names in answers:
        paths = re.findall(r"`([\w/]+\.py)`", files)
        assert 1 <= len(paths) <= 2, question
        wanted = re.findall(r"`(\w+)`", names)
        held = set().union(*(defined(ROOT / path) for path in paths))
        assert wanted, question
        assert set(wanted) <= held, question


def test_method_names_functions_of_the_files_beside_them():
    for cells in rows("docs/method.md", "in the paper"):
        where, tests = cells[2], cells[3]
        paths = re.findall(r"`([\w/]+\.py)`", where)
        held = set().union(*(defined(ROOT / path) for path in paths))
        functions = re.findall(r"`([\w.]+)`(?= (?:and|in|of) )", where)
        assert {part for function in functions for part in function.split(".")} - {"ratio_variance"} <= held, cells[0]
        assert (ROOT / tests.strip("`")).is_file()


def test_modules_that_moved_are_where_the_changelog_says():
    moves = rows("CHANGELOG.md", "was")
    assert moves
    for _, places in moves:
        assert not [module for module in _MODULE.findall(places) if not exists(module)], places


def test_symbols_beside_a_file_are_in_it():
    for page in ("docs/architecture.md", "docs/method.md"):
        for symbol, path in re.findall(r"`([A-Za-z_.]+)` in\s`([\w/]+\.py)`", (ROOT / page).read_text()):
            assert symbol.split(".")[0] in defined(ROOT / path), (page, symbol, path)


def test_reference_is_of_modules_that_can_be_imported():
    for module in re.findall(r"^::: (\S+)$", (ROOT / "docs/reference/core.md").read_text(), re.MULTILINE):
        importlib.import_module(module)
