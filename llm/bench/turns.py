"""What the two sides of a benchmark share: their turns, the figures they report, and the case these come to."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Protocol

Task = dict[str, Any]
"""``measure`` names a function as ``module:function``; the rest are its arguments, a workload as a dict."""
Figures = dict[str, Any]


class Turns(Protocol):
    """What a measurement sees of the contest it is part of."""

    def start(self) -> None:
        """Return when it is this side's turn."""
        ...

    def finish(self, figures: Figures) -> None:
        """Report a turn; what follows until the next may have to wait too."""
        ...


def case_of_runs(name: str, unit: str, peer_name: str, runs: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Medians of ``ours`` and ``peer``, and their ratio run by run, in the layout of a case."""
    runs = [{**run, "ratio": run["ours"] / run["peer"]} for run in runs]
    ratios = [run["ratio"] for run in runs]
    return {
        "name": name,
        "ours": statistics.median(run["ours"] for run in runs),
        "peer": statistics.median(run["peer"] for run in runs),
        "peer_name": peer_name,
        "unit": unit,
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "runs": runs,
    }
