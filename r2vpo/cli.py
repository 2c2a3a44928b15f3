"""The ``r2vpo`` command. Each group lives with its backend and is loaded only when asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from r2vpo.errors import R2VPOError

GROUPS = {
    "control": ("r2vpo.control.cli", "train, evaluate and compare agents on continuous control"),
    "llm": ("r2vpo.llm.cli", "fine-tune and evaluate language models"),
    "plot": ("r2vpo.plot_command", "draw the training curves of one or more runs"),
    "report": ("r2vpo.control.report.command", "one HTML page about the runs of a study"),
    "bench": ("r2vpo.cli:bench", "measure speed beside other libraries"),
}

_HELP = """usage: r2vpo COMMAND ...

Ratio-variance regularized policy optimization.

commands:
{commands}

r2vpo COMMAND --help tells more about each.
"""


BACKENDS = {"control": "r2vpo.control.bench.command", "llm": "r2vpo.llm.bench.command"}

_BENCH_USAGE = """usage: r2vpo bench {control,llm} ...

  control   environment steps per second beside Stable-Baselines3 PPO
  llm       samples per second beside TRL's GRPOTrainer, rollout engines, log-probs
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0: done. 1: an error that was explained on standard error. 2: unusable arguments. 130: interrupted. 141: whoever
    read the output, ``head`` say, has closed it.
    """
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


if __name__ == "__main__":
    sys.exit(main())
