"""Sweeps around the chosen settings of a method: over passes and buffer, and over what R²VPO is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from r2vpo.llm.experiments.rows import PASSES, ROWS, Row, Settings

BUFFERS = (1, 2, 8)
"""Sizes of the buffer in the sweeps, beside the 4 of all rows."""
CLOSE = 0.02
"""How far below its best a method may end and still count as stable."""


def changes(name: str, row: Row) -> Iterator[tuple[str, Settings]]:
    """Label and changed settings of everything that a row is swept over; its chosen settings are among them."""
    passes = row.passes_word
    for value in PASSES:
        yield f"{passes} {value}", {passes: value}
    if row.off_policy:
        for value in BUFFERS:
            yield f"buffer {value}", {"buffer_iterations": value}
    if name == "r2vpo-off":
        yield "proximal anchor", {"anchor": "proximal"}
        yield "two-sided", {"objective": "r2vpo"}
        yield "two-sided, proximal anchor", {"objective": "r2vpo", "anchor": "proximal"}
        for delta in (0.02, 0.1):
            yield f"dual, delta {delta}", {"dual": "adaptive", "delta": delta}


def stability(rows: Sequence[dict[str, Any]], chosen: dict[str, Settings]) -> dict[str, dict[str, Any]]:
    """Of each swept row the best mean pass@1 at the end, and the most passes and the largest buffer close to it.

    Args:
        rows: Of the comparison of the sweeps.
        chosen: Settings around which they were swept.
    """
    ends = {row["method"]: row["pass_at_1"]["mean"] for row in rows if "pass_at_1" in row}
    found = {}
    for name, settings in chosen.items():
        word = ROWS[name].passes_word
        swept = {value: ends.get(f"{name} {word} {value}") for value in PASSES}
        buffers = {value: ends.get(f"{name} buffer {value}") for value in BUFFERS}
        if ROWS[name].off_policy:
            buffers[4] = ends.get(f"{name} {word} {settings[word]:g}")
        known = {
            what: {value: end for value, end in of.items() if end is not None}
            for what, of in ((word, swept), ("buffer", buffers))
        }
        best = max((end for of in known.values() for end in of.values()), default=0.0)
        found[name] = {"best": best} | {
            f"largest_{what}": max((value for value, end in of.items() if end >= best - CLOSE), default=None)
            for what, of in known.items()
        }
    return found
