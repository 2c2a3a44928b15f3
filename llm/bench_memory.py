"""Peak memory of a benchmark's process."""

from __future__ import annotations

import resource
import sys

MIB = 2**20


def peak_mib() -> float:
    """Largest resident set of this process so far, MiB.

    On Linux a child starts at the size its parent had: measure in children of a process that stays small.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB
