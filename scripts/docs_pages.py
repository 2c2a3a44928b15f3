"""Pages of the documentation that the code writes itself: settings and command line; and the measured pictures.

mkdocs calls the functions whose names begin with ``on_``; mkdocs.yml names this file.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import posixpath
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from mkdocs.structure.files import File, Files

from r2vpo.control.config import ControlConfig
from r2vpo.llm.config import LLMConfig

ROOT = Path(__file__).resolve().parents[1]

TRAINERS: dict[str, type] = {"control": ControlConfig, "llm": LLMConfig}

COMMANDS = (
    "control train",
    "control evaluate",
    "control enjoy",
    "control compare",
    "control study",
    "control tune",
    "control export",
    "llm train",
    "llm evaluate",
    "llm compare",
    "llm study",
    "llm chat",
    "plot",
    "report",
    "hub push",
    "hub pull",
    "bench control",
    "bench llm",
)

_PICTURE = re.compile(r"(!\[[^\]]*\]\()((?:\.\./)+)(benchmarks/[^)]+\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, and the pictures of benchmarks/ that pages show."""
    pages = {f"reference/settings-{name}.md": settings_page(name, kind) for name, kind in TRAINERS.items()}
    pages["reference/commands.md"] = commands_page()
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    for picture in sorted((ROOT / "benchmarks").rglob("*.png")):
        name = picture.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let pictures of benchmarks/, a folder beside docs/, be found in the site."""
    up = posixpath.relpath(".", posixpath.dirname(page.file.src_uri) or ".")
    return _PICTURE.sub(lambda found: f"{found[1]}{up}/{found[3]}", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Drop the role in front of a name that a docstring refers to."""
    return re.sub(r":(?:func|class|data|meth|mod|attr):(?=<code>)", "", html)


def settings_page(name: str, kind: type) -> str:
    """Every setting of a trainer: those that ``--help`` shows, then the advanced ones."""
    helps, hints = field_help(kind), get_type_hints(kind, include_extras=True)
    rows: dict[bool, list[str]] = {True: [], False: []}
    for field in dataclasses.fields(kind):
        cells = (f"`{field.name}`", type_words(hints[field.name]), f"`{_default(field)}`", helps[field.name])
        rows[field.name in kind.MAIN].append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")  # type: ignore[attr-defined]
    head = "| setting | type | default | what it does |\n|---|---|---|---|\n"
    return (
        f"# Settings of `r2vpo {name} train`\n\n"
        "A keyword of the trainer in Python, `--name` on the command line, a key of `config.json` and of what\n"
        f"`--config` reads. Presets replace some of the defaults: `r2vpo {name} train --help` shows the numbers that\n"
        "hold with the arguments beside it.\n\n"
        f"{head}{chr(10).join(rows[True])}\n\n## Advanced\n\nFor `--help-advanced`; few runs need one of them.\n\n"
        f"{head}{chr(10).join(rows[False])}\n"
    )


def field_help(kind: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, as one line; fields of its bases included."""
    helps: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        body = ast.parse(inspect.getsource(base)).body[0].body  # type: ignore[attr-defined]
        for statement, following in pairwise(body):
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
                helps[statement.target.id] = " ".join(ast.literal_eval(following.value).split())  # type: ignore[union-attr]
    return helps


def type_words(hint: Any) -> str:
    """A type and its bounds as a cell of a table: ``int ≥ 1``, ``"linear" or "constant"``."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return " ".join([type_words(inner[0]), *filter(None, map(_bound, inner[1:]))])
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in inner)
    if origin in (Union, UnionType):
        return " or ".join(map(type_words, inner))
    if origin is tuple:
        return "several " + type_words(inner[0])
    if hint is NoneType:
        return "None"
    return getattr(hint, "__name__", str(hint))


def _bound(mark: Any) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    found = {name: getattr(mark, name, None) for name in signs}
    return ", ".join(f"{signs[name]} {value}" for name, value in found.items() if value is not None)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return "(needed)" if field.default is dataclasses.MISSING else repr(field.default)


def commands_page() -> str:
    """What each command says of itself when asked with --help."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        texts = list(pool.map(help_text, COMMANDS))
    parts = [
        "# Command line",
        "This page is what each command says to `--help`; the two that train say more to `--help-advanced`.",
    ]
    for command, text in zip(COMMANDS, texts, strict=True):
        parts.append(f"## r2vpo {command}\n\n```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def help_text(command: str) -> str:
    """Output of ``r2vpo COMMAND --help``.

    Raises:
        RuntimeError: The command failed.
    """
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    words = [sys.executable, "-m", "r2vpo.cli", *command.split(), "--help"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"r2vpo {command} --help ended with {done.returncode}: {done.stderr}")
    return done.stdout
