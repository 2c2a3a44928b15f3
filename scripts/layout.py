"""The measure of the architecture: folders, import circles, long files, the way of a sample, lines, settings.

    python scripts/layout.py            # or: make layout

A stranger reads the architecture from ``ls`` in half a minute if no folder holds more than 20 entries, no file is long
and no two files import each other. The way of a sample is every file of this project in which a function runs while one
warm iteration is collected and learned from: from the environment, or the prompt, to the gradient step.
"""

from __future__ import annotations

import graphlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import grimp
import tyro

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("r2vpo", "envs", "control", "llm")
SOURCES = (*PACKAGES, "scripts", "examples")
FOLDERS = (*SOURCES, "tests", "docs", "benchmarks")
MOST_ENTRIES, LONG_FILE = 20, 300


@dataclass(frozen=True)
class Arguments:
    """Measure the architecture of this checkout."""

    ways: bool = True
    """Also train for some iterations and follow a sample; a tiny language model is made the first time."""
    json: Path | None = None
    """Also write the measure to this file."""


def folders(root: Path) -> dict[str, int]:
    """Entries of every folder, those that git ignores aside."""
    counts = {".": len(_entries(root))}
    for top in FOLDERS:
        for path in [root / top, *sorted((root / top).rglob("*"))]:
            if path.is_dir() and "__pycache__" not in path.parts:
                counts[str(path.relative_to(root))] = len(_entries(path))
    return counts


def circle(package: str = "r2vpo") -> list[str]:
    """Modules that import each other in a circle, the first that is found; imports inside functions count as well."""
    graph = grimp.build_graph(package, cache_dir=None)
    try:
        graphlib.TopologicalSorter(
            {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
        ).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def lines(root: Path) -> dict[str, int]:
    """Lines of every Python file that is no test."""
    paths = (path for top in SOURCES for path in sorted((root / top).rglob("*.py")))
    return {str(path.relative_to(root)): len(path.read_text().splitlines()) for path in paths}


def visible_settings() -> dict[str, int]:
    """Options that ``--help`` of each trainer shows, and all that there are."""
    from dataclasses import fields

    from r2vpo.control.cli import TrainCommand as ControlTrain
    from r2vpo.control.config import ControlConfig
    from r2vpo.llm.cli import TrainCommand as LLMTrain
    from r2vpo.llm.config import LLMConfig

    found = {}
    for name, command, config in (("control", ControlTrain, ControlConfig), ("llm", LLMTrain, LLMConfig)):
        found[name] = len(fields(command)) - len(getattr(command, "ADVANCED", ())) + len(config.MAIN)
        found[f"{name} with --help-advanced"] = len(fields(command)) + len(fields(config))
    return found


def way_of_a_rollout() -> list[str]:
    """Files from environment to gradient, R²VPO off-policy on HalfCheetah."""
    from r2vpo.control import R2VPO

    model = R2VPO("HalfCheetah-v5", gradient_step="eager").learn(2048)
    collector, learner, config = model.collector, model.learner, model.config
    return _files_in_use(lambda: learner.update(collector.collect(config.rollout_steps)[0], config.learning_rate))


def way_of_a_completion() -> list[str]:
    """Files from prompt to gradient, R²VPO off-policy on the tiny arithmetic model with Hugging Face rollouts."""
    from r2vpo.llm import R2VPOTrainer
    from r2vpo.llm.collection import to_iteration

    small = {
        "total_rollouts": 128,
        "prompts_per_iteration": 8,
        "minibatch_size": 32,
        "eval_every": 0,
        "eval_samples": 0,
    }
    trainer = R2VPOTrainer(**small)
    trainer.train()

    def iterate() -> None:
        groups, _ = trainer.collector.collect()
        trainer.learner.update(to_iteration(groups, trainer.config), trainer.config.learning_rate)

    return _files_in_use(iterate)


def _files_in_use(work: Callable[[], Any]) -> list[str]:
    found: set[str] = set()

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            found.add(os.path.realpath(frame.f_code.co_filename))

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    inside = (Path(path).relative_to(ROOT) for path in found if Path(path).is_relative_to(ROOT))
    return sorted(str(path) for path in inside if path.parts[0] in PACKAGES)


def _entries(path: Path) -> list[Path]:
    ignored = ("__pycache__", "build", "dist", "runs", "site")
    hidden = (".", "r2vpo.egg-info")
    return [x for x in path.iterdir() if x.name not in ignored and not x.name.startswith(hidden)]


def main() -> None:
    """Print the measure."""
    arguments = tyro.cli(Arguments, description=__doc__)
    entries, sizes, found = folders(ROOT), lines(ROOT), circle()
    crowded = {name: count for name, count in entries.items() if count > MOST_ENTRIES}
    measure: dict[str, Any] = {
        "most entries in a folder": max(entries.values()),
        f"folders over {MOST_ENTRIES} entries": crowded,
        "import circle": found,
        "longest file": max(sizes.items(), key=lambda item: item[1]),
        f"files over {LONG_FILE} lines": {name: size for name, size in sizes.items() if size > LONG_FILE},
        "source files": len(sizes),
        "source lines": {top: sum(n for name, n in sizes.items() if name.split("/")[0] == top) for top in SOURCES},
        "lines of the four packages": sum(n for name, n in sizes.items() if name.split("/")[0] in PACKAGES),
        "options that --help shows": visible_settings(),
    }
    if arguments.ways:
        for name, way in (("rollout", way_of_a_rollout()), ("completion", way_of_a_completion())):
            measure[f"files on the way of a {name}"] = {"count": len(way), "files": way}
    for name, value in measure.items():
        print(f"{name:<32} {value if value not in ({}, []) else 'none'}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(measure, indent=1) + "\n")


if __name__ == "__main__":
    main()
