"""``r2vpo bench``: speed beside other libraries, measured in alternation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

BACKENDS = {"control": "r2vpo.control.bench", "llm": "r2vpo.llm.bench"}

_USAGE = """usage: r2vpo bench {control,llm} ...

  control   environment steps per second beside Stable-Baselines3 PPO
  llm       samples per second beside TRL's GRPOTrainer, rollout engines, log-probs
"""


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark of one backend."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0 if arguments else 2
    if arguments[0] not in BACKENDS:
        print(f"r2vpo bench: no backend {arguments[0]!r}; there are {', '.join(BACKENDS)}", file=sys.stderr)
        return 2
    return int(import_module(BACKENDS[arguments[0]]).main(arguments[1:]))
