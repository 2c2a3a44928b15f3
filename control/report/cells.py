"""Pieces of HTML: text that is safe to show, tables whose number cells name their place in report.json."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

Cell = str
"""HTML of one table cell."""

MISSING = "–"


def text_cell(text: Any) -> Cell:
    """A cell of words."""
    return f"<td>{escape(str(text))}</td>"


def number_cell(key: str, text: str) -> Cell:
    """A cell of a number; the same markup for the best and for the worst.

    Args:
        key: Where report.json has it, names and list places with dots between.
        text: As it is shown.
    """
    return f'<td class="number" data-key="{escape(key)}">{escape(text)}</td>'


def estimate_cell(key: str, value: float | None, interval: Sequence[float | None], digits: int = 0) -> Cell:
    """A number with its interval."""
    ends = ", ".join(number_text(end, digits) for end in interval)
    return number_cell(key, MISSING if value is None else f"{number_text(value, digits)} [{ends}]")


def number_text(value: float | None, digits: int = 0) -> str:
    """Thousands apart, a true minus sign, a dash for None."""
    if value is None:
        return MISSING
    text = f"{value:,.{digits}f}"
    # Rounded to nothing, a small negative number would be "-0".
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[Cell]], words: Collection[int] = (0,)) -> str:
    """A table in a box that scrolls sideways where the screen is narrow.

    Args:
        caption: What the table shows.
        headings: Of the columns.
        rows: Cells.
        words: Places of the columns that hold words; the others are aligned to the right.
    """
    head = "".join(
        f'<th scope="col" class="{"words" if i in words else "number"}">{escape(heading)}</th>'
        for i, heading in enumerate(headings)
    )
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return (
        f'<div class="wide"><table>\n<caption>{escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def paragraph(text: str) -> str:
    """A paragraph of plain words."""
    return f"<p>{escape(text)}</p>"


def items(name: str, values: Sequence[str]) -> str:
    """A term with its descriptions."""
    return f"<dt>{escape(name)}</dt>" + "".join(f"<dd>{escape(value)}</dd>" for value in values)


def code_items(name: str, values: Sequence[str]) -> str:
    """A term with commands."""
    return f"<dt>{escape(name)}</dt>" + "".join(f"<dd><code>{escape(value)}</code></dd>" for value in values)


def image(path: Path, alt: str) -> str:
    """A PNG inside the page."""
    return f'<img src="{data_uri(path, "image/png")}" alt="{escape(alt)}">'


def video(path: Path, label: str) -> str:
    """An mp4 inside the page, with a caption."""
    source = data_uri(path, "video/mp4")
    return (
        f'<figure><video controls muted playsinline preload="metadata" aria-label="{escape(label)}" src="{source}">'
        f"</video><figcaption>{escape(label)}</figcaption></figure>"
    )


def data_uri(path: Path, kind: str) -> str:
    """The bytes of a file as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def folded(summary: str, content: str) -> str:
    """Content that is opened with a click, without any script."""
    return f"<details><summary>{escape(summary)}</summary>\n{content}\n</details>"
