"""The HTML page of a report, from its template beside this file, and how numbers are written in it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from r2vpo.control.report.figures import TRACE_TITLES, Picture
from r2vpo.control.report.interactive import curves_of, script_json, scripts
from r2vpo.control.report.numbers import INTERVALS_WITHIN_A_TASK, LAST_PART

Row = dict[str, Any]

MISSING = "–"
_LARGE = 20.0
"""Returns of a task whose largest is smaller get two digits after the point."""


def render(
    document: Row, pictures: Mapping[str, Sequence[Picture]], films: Sequence[Path | None], interactive: bool = False
) -> str:
    """The page.

    Args:
        document: All numbers, as report.json has them.
        pictures: From :func:`r2vpo.control.report.figures.draw_all`.
        films: File of each row of ``document["videos"]``, None where there is none.
        interactive: Curves drawn by plotly.js in place of pictures.
    """
    loader = FileSystemLoader(Path(__file__).parent)
    page = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {
        "number_text": number_text,
        "steps_text": lambda value: "never" if value is None else number_text(value),
        "digits": lambda value: 0 if abs(value) >= _LARGE else 2,
        "counted": _counted,
        "settings_text": _settings_text,
        "data_uri": lambda path, kind: f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}",
        "script_json": script_json,
        "zip": lambda one, other: list(zip(one, other, strict=True)),
    }
    return page.get_template("page.html.j2").render(
        document=document,
        pictures=pictures,
        films=films,
        scripts=scripts() if interactive else [],
        curves=curves_of(document) if interactive else None,
        trace_titles=TRACE_TITLES,
        last_part=LAST_PART,
        intervals_within_a_task=INTERVALS_WITHIN_A_TASK,
    )


def number_text(value: float | None, digits: int = 0) -> str:
    """Thousands apart, a true minus sign, a dash for None."""
    if value is None:
        return MISSING
    text = f"{value:,.{digits}f}"
    # Rounded to nothing, a small negative number would be "-0".
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def _counted(entry: Row, total: int) -> str:
    many = f"{entry['runs']} run{'' if entry['runs'] == 1 else 's'}"
    return str(entry["value"]) if entry["runs"] == total else f"{entry['value']} ({many})"


def _settings_text(settings: Row) -> str:
    def words(value: Any) -> str:
        if isinstance(value, dict) and set(value) == {"differs"}:
            return " or ".join(json.dumps(one) for one in value["differs"])
        return json.dumps(value)

    return ", ".join(f"{name} {words(value)}" for name, value in settings.items()) or "not recorded"
