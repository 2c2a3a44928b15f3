"""Draws the two pictures of docs/architecture.md: what happens to a rollout, and to a completion.

python scripts/draw_architecture.py
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"

CORE, BACKEND = ("#e8eaf6", "#3f51b5"), ("#e0f2f1", "#00796b")
LEFT, WIDTH, HEIGHT, GAP, SIDE = 70, 400, 62, 44, 560


class Box(NamedTuple):
    """One stop of the trip."""

    title: str
    files: str
    passes: str
    """What goes on to the next stop."""
    core: bool = False


ROLLOUT = (
    Box("All environments take a step", "envs/engines.py", "observations, rewards, ends of episodes"),
    Box("The policy acts", "control/collector.py  control/policy.py", "a rollout, raw, with the log-probs it acted on"),
    Box("The rollout is stored", "r2vpo/replay.py", "the last 8 rollouts (on-policy: 1)", core=True),
    Box("Advantages under today's value function", "r2vpo/advantages.py", "advantages, value targets", core=True),
    Box("A minibatch is drawn and scored", "control/learner.py  control/policy.py", "Scored"),
    Box("Gradient step", "r2vpo/update.py  r2vpo/compiled_update.py", "", core=True),
)
COMPLETION = (
    Box("Problems are dealt", "llm/data/prompts.py", "prompts, as tokens"),
    Box("The engine answers", "llm/engines/base.py  hf.py  vllm.py", "tokens with the log-probs they were drawn at"),
    Box("Answers are verified", "llm/collection.py  llm/rewards/scoring.py", "rewards; None where there is no verdict"),
    Box("Advantages within each group", "r2vpo/advantages.py", "one advantage an answer", core=True),
    Box("The iteration is stored", "r2vpo/replay.py", "the last 4 iterations (on-policy: 1)", core=True),
    Box(
        "Micro-batches are drawn and scored",
        "llm/learner.py  llm/models/token_policy.py",
        "Scored",
    ),
    Box("Gradient step", "r2vpo/update.py", "", core=True),
)
ASIDE = (
    Box("Objective", "r2vpo/objectives.py", "", core=True),
    Box("λ follows E[(ρ−1)²]", "r2vpo/dual.py", "", core=True),
)


DRAWINGS = {
    "rollout": (ROLLOUT, "the changed policy acts next"),
    "completion": (COMPLETION, "the changed weights go to the engine"),
}


def main() -> None:
    """Write both pictures."""
    for name, (stops, back) in DRAWINGS.items():
        (PICTURES / f"{name}.svg").write_text(drawing(stops, back))


def drawing(stops: tuple[Box, ...], back: str) -> str:
    """The trip from top to bottom, objective and dual variable beside its last stop, and the way back."""
    tops = [20 + i * (HEIGHT + GAP) for i in range(len(stops))]
    parts = [_box(LEFT, top, WIDTH, stop) for top, stop in zip(tops, stops, strict=True)]
    centre, last = LEFT + WIDTH // 2, tops[-1]
    for top, stop in zip(tops[:-1], stops[:-1], strict=True):
        parts.append(_arrow(f"M{centre},{top + HEIGHT} V{top + HEIGHT + GAP - 8}"))
        parts.append(_text(centre + 12, top + HEIGHT + 27, stop.passes, "#555", 13))
    for box, top in zip(ASIDE, (last - HEIGHT - GAP, last), strict=True):
        parts.append(_box(SIDE, top, 240, box))
    middle = last + HEIGHT // 2
    parts.append(_arrow(f"M{SIDE + 70},{last - GAP} V{last - 20} H{LEFT + WIDTH - 40} V{last - 8}"))
    parts.append(_arrow(f"M{LEFT + WIDTH},{middle - 10} H{SIDE - 8}"))
    parts.append(_arrow(f"M{SIDE},{middle + 12} H{LEFT + WIDTH + 8}"))
    parts.append(_text(LEFT + WIDTH + 10, middle - 16, "E[(ρ−1)²]", "#555", 13))
    parts.append(_text(LEFT + WIDTH + 34, middle + 29, "λ", "#555", 13))
    second = tops[1] + HEIGHT // 2
    parts.append(_arrow(f"M{LEFT},{middle} H30 V{second} H{LEFT - 8}"))
    parts.append(
        f'<text x="22" y="{(middle + second) // 2}" fill="#555" font-size="13" text-anchor="middle" '
        f'transform="rotate(-90 22 {(middle + second) // 2})">{escape(back)}</text>'
    )
    backend = "  ".join(dict.fromkeys(box.files.split("/")[0] + "/" for box in reversed(stops) if not box.core))
    parts.append(_box(SIDE, 20, 240, Box("the core", "r2vpo/", "", core=True)))
    parts.append(_box(SIDE, 30 + HEIGHT, 240, Box("the backend", backend, "")))
    height = last + HEIGHT + 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 {height}" width="820" height="{height}" '
        'font-family="sans-serif">\n<defs><marker id="tip" markerWidth="9" markerHeight="8" refX="1" refY="4" '
        'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#555"/></marker></defs>\n'
        f'<rect width="820" height="{height}" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _box(x: int, y: int, width: int, box: Box) -> str:
    fill, line = CORE if box.core else BACKEND
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{HEIGHT}" rx="6" fill="{fill}" stroke="{line}"/>\n'
        + _text(x + 14, y + 26, box.title, "#111", 16)
        + "\n"
        + _text(x + 14, y + 48, box.files, line, 14, ' font-family="monospace"')
    )


def _text(x: int, y: int, text: str, colour: str, size: int, more: str = "") -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}" font-size="{size}" xml:space="preserve"{more}>{escape(text)}</text>'


def _arrow(path: str) -> str:
    return f'<path d="{path}" fill="none" stroke="#555" stroke-width="1.5" marker-end="url(#tip)"/>'


if __name__ == "__main__":
    main()
