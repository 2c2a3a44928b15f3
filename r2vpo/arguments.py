"""A training command's arguments: presets below a file below flags, the settings most people need before the others."""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
import yaml

from r2vpo.errors import ConfigError

Command = TypeVar("Command")


def parse_training(
    command: type[Command],
    config: type,
    resolve: Callable[[dict[str, Any]], Any],
    presets: Sequence[str],
    arguments: Sequence[str],
    prog: str,
) -> tuple[Command, dict[str, Any]]:
    """Read the arguments of a training command.

    Args:
        command: Dataclass of the command's own options; ``config``, a path or None, is one of them.
        config: Dataclass of the trainer's settings; ``MAIN`` names those that ``--help`` shows.
        resolve: Fills in the preset around given settings and checks them; returns a ``config``.
        presets: Settings that choose what ``resolve`` fills in.
        arguments: Words of the command line.
        prog: The command's name, for its help.

    Returns:
        The options, and every setting: what the flags say, else the file, else the preset.

    Raises:
        ConfigError: A setting or the file is not allowed.
        SystemExit: Help was asked for, or the words are no such command.
    """
    asks = [word for word in arguments if word in ("-h", "--help", "--help-advanced")]
    words = ["--help"] if asks else list(arguments)
    brief = bool(asks) and "--help-advanced" not in asks
    below = _settings_below_flags(config, resolve, presets, [word for word in arguments if word not in asks])
    main = [f.name for f in fields(config) if f.name in config.MAIN]  # type: ignore[attr-defined]
    others = [f.name for f in fields(config) if f.name not in main]
    own = {f.name: f.default for f in fields(command)}  # type: ignore[arg-type]
    group = make_dataclass("Advanced", _flags(config, {name: getattr(below, name) for name in others}, hidden=brief))
    flags = make_dataclass(
        "Flags",
        [
            *_flags(command, own),
            *_flags(config, {name: getattr(below, name) for name in main}),
            ("advanced", group, field(default_factory=group)),
        ],
    )
    about = f"{inspect.getdoc(command)}" + (f" --help-advanced shows {len(others)} more settings." if brief else "")
    parsed: Any = tyro.cli(flags, args=words, prog=prog, description=about, config=(tyro.conf.OmitArgPrefixes,))
    settings = {f.name: getattr(parsed if f.name in main else parsed.advanced, f.name) for f in fields(config)}
    return command(**{name: getattr(parsed, name) for name in own}), settings


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a YAML or JSON file, such as the config.json of a run.

    Raises:
        ConfigError: No such file, or it is not a mapping from names to values.
    """
    try:
        text = path.read_text()
        settings = json.loads(text) if path.suffix == ".json" else yaml.load(text, _Loader)
    except OSError as error:
        raise ConfigError("config", str(path), f"a file that can be read ({error.strerror})") from error
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError("config", str(path), f"a YAML or JSON file: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError("config", str(path), "a mapping from the names of settings to their values")
    return settings


def field_docs(kind: type) -> dict[str, str]:
    """The docstrings under the fields of a dataclass, on one line each."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
            assert isinstance(statement.target, ast.Name)
            docs[statement.target.id] = " ".join(ast.literal_eval(following.value).split())
    return docs


def _settings_below_flags(
    config: type, resolve: Callable[[dict[str, Any]], Any], presets: Sequence[str], words: Sequence[str]
) -> Any:
    """What holds where no flag says otherwise: the file over the preset, which flags and file choose together."""
    hints = {**_hints(config), "config": Path}
    chosen = make_dataclass("Chosen", [(name, hints[name] | None, None) for name in (*presets, "config")])  # type: ignore[misc]
    given, _ = tyro.cli(chosen, args=words, return_unknown_args=True, add_help=False)
    flags = {name: getattr(given, name) for name in presets if getattr(given, name) is not None}
    path = given.config  # type: ignore[attr-defined]
    stored: Mapping[str, Any] = {} if path is None else read_settings(path)
    for name in ("preset", "method"):
        if name in flags and stored.get(name, flags[name]) != flags[name]:
            raise ConfigError(name, flags[name], f"left out: {path} holds the settings of {name}={stored[name]!r}")
    return resolve({**stored, **flags})


def _flags(kind: type, defaults: Mapping[str, Any], hidden: bool = False) -> list[tuple[str, Any, Any]]:
    """Fields of ``kind`` with these defaults, for a dataclass of flags; hidden ones are no flags at all."""
    hints, texts = _hints(kind), field_docs(kind)
    marks = (tyro.conf.Suppress,) if hidden else ()
    return [
        (
            name,
            Annotated[(hints[name], tyro.conf.arg(help=texts[name]), *marks)],
            field(default_factory=lambda value=value: value),
        )
        for name, value in defaults.items()
    ]


def _hints(kind: type) -> dict[str, Any]:
    return inspect.get_annotations(kind, eval_str=True)


class _Loader(yaml.SafeLoader):
    """PyYAML follows YAML 1.1, in which 1e-3 is a text."""


_Loader.yaml_implicit_resolvers = {key: list(pairs) for key, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
