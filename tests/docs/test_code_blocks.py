"""Every block of code in the README and in docs/: Python is executed, commands are parsed and some are run."""

from __future__ import annotations

import functools
import re
import runpy
import shlex
import tomllib
from pathlib import Path
from unittest import SkipTest

import pytest
import tyro
from sybil import Document, Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from r2vpo.cli import main
from r2vpo.control.presets import VARIANTS
from r2vpo.llm.config import METHODS
from r2vpo.objectives import OBJECTIVES

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"python", "console", "toml", "text"}
RUN = "<!-- run -->"
"""Stands before a block of commands that is run and not only parsed."""
OF_OTHERS = {"git", "cd", "uv", "torchrun", "tensorboard", "accelerate", "wandb", "trackio"}
"""Commands of other projects, which are not tried."""


class Parsed(Exception):  # an outcome, raised to stop a command once its arguments are read
    """The arguments of a command were understood."""


def commands(text: str) -> list[list[str]]:
    """The words of each line, continued lines joined and comments left out."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines for words in [shlex.split(line, comments=True)] if words]


def run_console(example: Example) -> None:
    run = example.document.text[: example.start].rstrip().endswith(RUN)
    for words in commands(example.parsed):
        for part in _parts(words):
            (_run if run else _check)(part)


def _parts(words: list[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _run(words: list[str]) -> None:
    assert words[0] == "r2vpo"
    assert main(words[1:]) == 0, words


def _check(words: list[str]) -> None:
    """Raise where a command would not understand its arguments."""
    match words:
        case ["r2vpo", *arguments]:
            _check_ours(lambda: main(arguments), words)
        case ["python", script, *arguments] if script.endswith(".py"):
            _check_script(script, arguments)
        case ["python", "-m", module, *_]:
            assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file(), words
        case ["make", *targets]:
            known = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert {target for target in targets if "=" not in target} <= set(known), words
        case ["pip", "install", *packages]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            ours = [re.fullmatch(r"(?:r2vpo|\.)\[(.*)\]", package) for package in packages]
            assert {name for found in ours if found for name in found[1].split(",")} <= set(extras), words
        case [path, *_] if path.startswith("examples/"):
            assert (ROOT / path).is_file(), words
        case _:
            assert words[0] in OF_OTHERS, words


def _check_ours(command, words: list[str]) -> None:
    parse = tyro.cli

    def stop_when_parsed(*args, **kwargs):
        parsed = parse(*args, **kwargs)
        if kwargs.get("return_unknown_args"):
            return parsed  # a first look at some of the arguments
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tyro, "cli", stop_when_parsed)
        try:
            command()
        except Parsed:
            return
        except SystemExit as refused:
            if refused.code:  # 0 is that of a command that explains itself
                pytest.fail(f"{shlex.join(words)} is not understood ({refused.code})")
            return
    pytest.fail(f"{shlex.join(words)} has not read its arguments by tyro.cli")


def _check_script(script: str, arguments: list[str]) -> None:
    path = ROOT / script
    assert path.is_file(), script
    if not arguments:
        return
    assert "tyro.cli(" in path.read_text(), f"{script}: its arguments can be parsed without running it"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [script, *arguments])
        _check_ours(lambda: runpy.run_path(str(path), run_name="__main__"), [script, *arguments])


def run_toml(example: Example) -> None:
    tomllib.loads(example.parsed)


PARSER = Sybil(
    parsers=[
        PythonCodeBlockParser(),
        CodeBlockParser("console", run_console),
        CodeBlockParser("toml", run_toml),
        SkipParser(),
    ]
)


@pytest.fixture(scope="session")
def small_models(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def _quick_tiny_model(small_models, monkeypatch):
    """The tiny model of the documentation, less the minute in which it learns half of the sums."""
    from r2vpo.llm.models import tiny

    monkeypatch.setenv("R2VPO_CACHE", str(small_models))
    quick = functools.partial(tiny.ensure_tiny_model, quiet=True, target_accuracy=0.01)
    monkeypatch.setattr(tiny, "ensure_tiny_model", lambda: quick())


@pytest.fixture
def _registries():
    """What blocks add to the lists of the library is gone after them."""
    lists = (OBJECTIVES, VARIANTS, METHODS)
    before = [dict(names) for names in lists]
    yield
    for names, was in zip(lists, before, strict=True):
        names.clear()
        names.update(was)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.usefixtures("_quick_tiny_model", "_registries")
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2 if page.name == "README.md" else 1):  # what a first try leaves behind must not stop a second one
        document: Document = PARSER.parse(page)
        for example in document.examples():
            try:
                example.evaluate()
            except SkipTest as reason:
                print(f"{page.name}:{example.line}: {reason}")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_names_its_language(page):
    opening = re.findall(r"^ *```(.*)$", page.read_text(), re.MULTILINE)[::2]
    assert set(opening) <= LANGUAGES


def test_an_unknown_flag_would_be_seen():
    with pytest.raises(pytest.fail.Exception):
        _check(["r2vpo", "control", "train", "--no-such-flag", "1"])
