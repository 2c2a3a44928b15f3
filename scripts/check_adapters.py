"""Runs each adapter's tests in a virtual environment of its own, where nothing but its extra is installed.

The host libraries of the adapters do not all fit into one environment, and the test suite skips what is absent. This
makes an environment for each below FOLDER, installs the package with the adapter's extra, and runs the adapter's tests
there. The first check installs the package alone and makes sure that none of the host libraries came with it. Tianshou,
a peer in comparisons, wants an environment of its own like them.

    python scripts/check_adapters.py                    # all of them, about 15 minutes the first time
    python scripts/check_adapters.py --adapters rsl-rl
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from r2vpo.errors import ConfigError
from r2vpo.runs.progress import LiveLine

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Check:
    """What is installed, and what is run there."""

    extras: tuple[str, ...]
    tests: tuple[str, ...]
    distribution: str | None = None
    """Host library, whose version goes into the results."""


CHECKS: Mapping[str, Check] = {
    "none": Check((), ("tests/packaging/test_no_hosts.py",)),
    "sb3": Check(("sb3",), ("tests/control/sb3",), "stable-baselines3"),
    "trl": Check(("trl", "llm"), ("tests/llm/trl",), "trl"),
    "verl": Check(("verl",), ("tests/llm/verl",), "verl"),
    "rsl-rl": Check(("rsl-rl", "control"), ("tests/control/rsl_rl",), "rsl-rl-lib"),
    "tianshou": Check(("tianshou",), ("tests/control/experiments/test_peers.py",), "tianshou"),
    "prime-rl": Check((), ("tests/llm/test_prime_rl.py",)),
}


@dataclass(frozen=True)
class Arguments:
    """Test the adapters, each in its own environment."""

    adapters: tuple[str, ...] = tuple(CHECKS)
    """Which; none is the package alone."""
    folder: Path = REPOSITORY / ".venv-adapters"
    """Environments are kept here and used again."""
    json: Path | None = None
    """Where results go besides the screen."""


def main() -> None:
    """Check, print a table, write results; the exit code is the number of adapters that failed."""
    arguments = tyro.cli(Arguments, description=__doc__)
    for name in arguments.adapters:
        if name not in CHECKS:
            raise ConfigError("adapters", name, f"one of {', '.join(CHECKS)}")
    results = []
    with LiveLine(len(arguments.adapters), "environments") as line:
        for done, name in enumerate(arguments.adapters):
            results.append(run_check(name, CHECKS[name], arguments.folder / name))
            line.update(done + 1)
            if arguments.json is not None:
                arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    for result in results:
        version = f"{result['host']} {result['version']}" if result["host"] else ""
        print(f"{result['adapter']:10s} {result['outcome']:8s} {version:26s} {result['last_line']}")
    sys.exit(sum(result["outcome"] != "passed" for result in results))


def run_check(name: str, check: Check, folder: Path) -> dict[str, Any]:
    """Install one adapter in ``folder`` and run its tests; a skipped test file counts as a failure."""
    started = time.perf_counter()
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    extras = f"[{','.join(check.extras)}]" if check.extras else ""
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-e", f"{REPOSITORY}{extras}"]
    installed = _run([*install, "pytest>=8"])
    if installed.returncode:
        outcome, last_line = "install", _last_line(installed.stderr)
    else:
        # A test file that skips as a whole says nothing about the adapter.
        tested = _run([python, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *check.tests])
        last_line = _last_line(tested.stdout)
        outcome = "passed" if tested.returncode == 0 and "passed" in last_line else "failed"
        if outcome == "failed":
            print(tested.stdout, tested.stderr, sep="\n", file=sys.stderr)
    version = _version(python, check.distribution) if check.distribution else None
    seconds = round(time.perf_counter() - started)
    return {
        "adapter": name,
        "host": check.distribution,
        "version": version,
        "outcome": outcome,
        "last_line": last_line,
        "seconds": seconds,
    }


def _run(command: list[Any]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=REPOSITORY, check=False)


def _version(python: Path, distribution: str) -> str:
    code = f"from importlib.metadata import version; print(version({distribution!r}))"
    return _last_line(_run([python, "-c", code]).stdout)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


if __name__ == "__main__":
    main()
