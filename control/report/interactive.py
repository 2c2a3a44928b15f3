"""Curves of a report that answer: plotly.js inside the page, once, and the points that it draws."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from matplotlib.colors import to_hex

from r2vpo.control.report.figures import Row, Style, curve_sets, spans_decades

_DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}
_FIELDS = ("algo", "steps", "seconds", "iqm", "low", "high")
_DIGITS = 5
"""Significant digits of a point: more than a screen shows."""


def is_available() -> bool:
    """Whether plotly is installed."""
    return find_spec("plotly") is not None


def scripts() -> list[str]:
    """Plotly itself, and what draws our figures with it."""
    from plotly.offline import get_plotlyjs

    return [get_plotlyjs(), (Path(__file__).parent / "curves.js").read_text(encoding="utf-8")]


def curves_of(document: Row) -> Row:
    """What the script draws: how each algorithm looks, and a plot for each quantity and task."""
    style = Style(document["algorithms"])
    looks = [
        {"name": algo, "color": to_hex(style.color(algo)), "dash": _DASHES[style.line(algo)]}
        for algo in document["algorithms"]
    ]
    plots = [
        {
            "set": name,
            "env": env,
            "label": label,
            "log": name != "steps" and spans_decades(of_task),
            "rows": [{field: _short(row[field]) for field in _FIELDS} for row in of_task],
        }
        for name, _, rows, label in curve_sets(document)
        if name != "seconds"  # a switch, and no plot of its own
        for env in document["tasks"]
        if (of_task := [row for row in rows if row["env"] == env])
    ]
    return {"algorithms": looks, "plots": plots}


def script_json(value: Any) -> str:
    """JSON that can stand in a script element."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _short(value: Any) -> Any:
    if isinstance(value, list):
        return [_short(part) for part in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
