"""The ``r2vpo`` command, and how a training command reads its settings: presets below a file below flags.

Each group of commands lives with its backend and is loaded only when asked for.
"""

from __future__ import annotations

import ast
import inspect
import io
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import field, fields, make_dataclass
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
import yaml

from r2vpo.errors import ConfigError, R2VPOError
from r2vpo.validation import check_names

GROUPS = {
    "control": ("r2vpo.control.cli", "train, evaluate and compare agents on continuous control"),
    "llm": ("r2vpo.llm.cli", "fine-tune and evaluate language models"),
    "plot": ("r2vpo.runs.plot_command", "draw the training curves of one or more runs"),
    "report": ("r2vpo.control.report.command", "one HTML page about the runs of a study"),
    "hub": ("r2vpo.runs.hub", "push a finished run to a hub, or pull one"),
    "bench": ("r2vpo.cli:bench", "measure speed beside other libraries"),
}

_HELP = """usage: r2vpo COMMAND ...

Ratio-variance regularized policy optimization.

commands:
{commands}

r2vpo COMMAND --help tells more about each.
"""


BACKENDS = {"control": "r2vpo.control.experiments.bench.command", "llm": "r2vpo.llm.bench.command"}

_BENCH_USAGE = """usage: r2vpo bench {control,llm} ...

  control   environment steps per second beside Stable-Baselines3 PPO
  llm       samples per second beside TRL's GRPOTrainer, rollout engines, log-probs
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0: done. 1: an error that was explained on standard error. 2: unusable arguments. 130: interrupted. 141: whoever
    read the output, ``head`` say, has closed it.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # module:Id and module:function may be the user's, as they are for python -m
    if arguments is None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a terminal that has no ± ends no run
    try:
        status = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        if not _output_is_closed():
            raise
        return 141


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        rows = (f"  {name:<10}{text}" for name, (_, text) in GROUPS.items())
        print(_HELP.format(commands="\n".join(rows)), end="")
        return 0 if words else 2
    if words[0] == "--version":
        from r2vpo.runs.provenance import package_versions

        print(f"r2vpo {package_versions().get('r2vpo', 'from source')}")
        return 0
    if words[0] not in GROUPS:
        print(f"r2vpo: there is no command {words[0]!r}; the commands are {', '.join(GROUPS)}", file=sys.stderr)
        return 2
    try:
        module, _, function = GROUPS[words[0]][0].partition(":")
        return int(getattr(import_module(module), function or "main")(words[1:]) or 0)
    except R2VPOError as error:
        print(f"r2vpo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nr2vpo: interrupted; what was computed is saved", file=sys.stderr)
        return 130


def _output_is_closed() -> bool:
    """Whether a broken pipe is the one that standard output goes to; if so, what is left to print is dropped."""
    try:
        print(flush=True)
    except BrokenPipeError:
        # What could not be flushed stays in the buffer, and the interpreter would try it again and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def bench(arguments: Sequence[str]) -> int:
    """``r2vpo bench``: run the benchmark of one backend, measured in alternation with other libraries."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_BENCH_USAGE, end="")
        return 0 if arguments else 2
    if arguments[0] not in BACKENDS:
        print(f"r2vpo bench: no backend {arguments[0]!r}; there are {', '.join(BACKENDS)}", file=sys.stderr)
        return 2
    return int(import_module(BACKENDS[arguments[0]]).main(arguments[1:]))


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
        command: Dataclass of the command's own options; ``config``, a path or None, is one of them. ``ADVANCED``, if it
            has that, names those that ``--help`` leaves out.
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
    _refuse_names_of_others(config, words)
    brief = bool(asks) and "--help-advanced" not in asks
    below = _settings_below_flags(config, resolve, presets, [word for word in arguments if word not in asks])
    main = [f.name for f in fields(config) if f.name in config.MAIN]  # type: ignore[attr-defined]
    others = [f.name for f in fields(config) if f.name not in main]
    own = {f.name: f.default for f in fields(command)}  # type: ignore[arg-type]
    rare = getattr(command, "ADVANCED", ())
    hidden = _flags(command, {name: own[name] for name in rare}, hidden=brief)
    hidden += _flags(config, {name: getattr(below, name) for name in others}, hidden=brief)
    group = make_dataclass("Advanced", hidden)
    flags = make_dataclass(
        "Flags",
        [
            *_flags(command, {name: value for name, value in own.items() if name not in rare}),
            *_flags(config, {name: getattr(below, name) for name in main}),
            ("advanced", group, field(default_factory=group)),
        ],
    )
    about = f"{inspect.getdoc(command)}" + (f" --help-advanced shows {len(others)} more settings." if brief else "")
    parsed: Any = tyro.cli(flags, args=words, prog=prog, description=about, config=(tyro.conf.OmitArgPrefixes,))
    settings = {f.name: getattr(parsed if f.name in main else parsed.advanced, f.name) for f in fields(config)}
    return command(**{name: getattr(parsed.advanced if name in rare else parsed, name) for name in own}), settings


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a YAML or JSON file, such as the config.json of a run.

    Raises:
        ConfigError: No such file, or it is not a mapping from names to values.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
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


def _refuse_names_of_others(config: type, words: Sequence[str]) -> None:
    """Raise ConfigError for a flag that is called so in another library, with its name here."""
    for word, following in pairwise([*words, ""]):
        flag, _, value = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and name in getattr(config, "ELSEWHERE", {}):
            check_names(config, {name: value or following})


def _settings_below_flags(
    config: type, resolve: Callable[[dict[str, Any]], Any], presets: Sequence[str], words: Sequence[str]
) -> Any:
    """What holds where no flag says otherwise: the file over the preset, which flags and file choose together."""
    hints = {**_hints(config), "config": Path}
    chosen = make_dataclass("Chosen", [(name, hints[name] | None, None) for name in (*presets, "config")])
    given: Any = tyro.cli(chosen, args=words, return_unknown_args=True, add_help=False)[0]
    flags = {name: getattr(given, name) for name in presets if getattr(given, name) is not None}
    path = given.config
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
            field(default_factory=partial(copy, value)),
        )
        for name, value in defaults.items()
    ]


def _hints(kind: type) -> dict[str, Any]:
    return inspect.get_annotations(kind, eval_str=True)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """PyYAML follows YAML 1.1, in which 1e-3 is a text."""


_Loader.yaml_implicit_resolvers = {key: list(pairs) for key, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


if __name__ == "__main__":
    sys.exit(main())
