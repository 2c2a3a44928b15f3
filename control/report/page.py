"""The HTML page of a report: one file that shows everything without a link, a font or a script from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from r2vpo.control.report import cells as markup
from r2vpo.control.report.cells import (
    MISSING,
    estimate_cell,
    folded,
    number_cell,
    number_text,
    paragraph,
    table,
    text_cell,
)
from r2vpo.control.report.figures import TRACE_TITLES, Picture
from r2vpo.control.report.numbers import INTERVALS_WITHIN_A_TASK, LAST_PART

Row = dict[str, Any]

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 72rem; margin: 0 auto;
  padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
p, dl { max-width: 48rem; }
dt { margin-top: .6rem; color: #555; }
dd { margin-left: 1rem; overflow-wrap: anywhere; }
code { font: .88em ui-monospace, monospace; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .875rem; }
caption { text-align: left; color: #555; padding-bottom: .4rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #e2e2e2; text-align: left; vertical-align: top; }
th { font-weight: 600; vertical-align: bottom; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th.number { white-space: normal; }
td:first-child { white-space: nowrap; }
img, video { max-width: 100%; height: auto; display: block; margin: .5rem auto; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: .5rem; }
figure { margin: 0; }
figcaption { font-size: .875rem; color: #555; text-align: center; }
summary { cursor: pointer; }
"""

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
<h1>$title</h1>
$body
</main>
</body>
</html>
""")

_FEW_COMMANDS = 4
_LARGE = 20.0
"""Returns of a task whose largest is smaller get two digits after the point."""


def render(document: Row, pictures: Mapping[str, Sequence[Picture]], films: Sequence[Path | None]) -> str:
    """The page.

    Args:
        document: All numbers, as report.json has them.
        pictures: From :func:`r2vpo.control.report.figures.draw_all`.
        films: File of each row of ``document["videos"]``, None where there is none.
    """
    sections = (
        _origin(document),
        _summary(document),
        _aggregates(document, pictures),
        _curves(pictures),
        _traces(document, pictures),
        _videos(document, films),
        _runs(document),
    )
    body = "\n".join(f"<section>\n{section}\n</section>" for section in sections)
    return _PAGE.substitute(title=escape(document["title"]), style=_STYLE, body=body)


def _origin(document: Row) -> str:
    origin = document["origin"]
    date = "lines file last changed" if origin["newest_is_file_time"] else "newest line"
    made = origin["commands"]
    parts = [
        markup.items("algorithms", [", ".join(document["algorithms"])]),
        markup.items("tasks", [", ".join(document["tasks"])]),
        f'<dt>runs</dt><dd data-key="origin.runs">{origin["runs"]}</dd>',
        markup.items(date, [origin["newest"]]),
        markup.code_items("this report", [document["command"]]),
        markup.items("the runs", ["command not recorded"]) if not made else _commands(made),
    ]
    parts += [
        markup.items(name, [_counted(entry, origin["runs"]) for entry in origin[key]])
        for name, key in (("versions", "versions"), ("machine", "machines"))
    ]
    parts.append(markup.items("commit", [", ".join(_counted(entry, origin["runs"]) for entry in origin["commits"])]))
    settings = "\n".join(
        f"<h3>{escape(algo)}</h3>\n<p><code>{escape(_settings(of_algo))}</code></p>"
        for algo, of_algo in origin["settings"].items()
    )
    return f"<dl>{''.join(parts)}</dl>\n{folded('Settings of each algorithm', settings)}"


def _commands(made: Sequence[str]) -> str:
    """The commands of the runs; of many, which differ in task and seed, the first, and the others with a click."""
    if len(made) <= _FEW_COMMANDS:
        return markup.code_items("the runs", made)
    others = folded(f"{len(made) - 1} more commands", f"<dl>{markup.code_items('the runs', made[1:])}</dl>")
    return f"{markup.code_items('the runs', made[:1])}<dd>{others}</dd>"


def _counted(entry: Row, total: int) -> str:
    many = f"{entry['runs']} run{'' if entry['runs'] == 1 else 's'}"
    return str(entry["value"]) if entry["runs"] == total else f"{entry['value']} ({many})"


def _settings(settings: Row) -> str:
    def words(value: Any) -> str:
        if isinstance(value, dict) and set(value) == {"differs"}:
            return " or ".join(json.dumps(one) for one in value["differs"])
        return json.dumps(value)

    return ", ".join(f"{name} {words(value)}" for name, value in settings.items()) or "not recorded"


def _summary(document: Row) -> str:
    success = any(row["success_rate"] is not None for row in document["summary"])
    headings = (
        "task",
        "algorithm",
        "seeds",
        "final return, IQM",
        "final return, mean",
        *(["success rate"] if success else []),
        "whole training, IQM",
        f"steps to {document['reference']}'s final training return",
        "seconds",
        "steps/s",
    )
    rows = [_summary_row(f"summary.{i}", row, success) for i, row in enumerate(document["summary"])]
    last = f"{100 * LAST_PART:.0f} %"
    return "\n".join(
        (
            "<h2>Each task</h2>",
            paragraph(
                "Final return: mean of the last policy's evaluation episodes. Whole training: mean of the training "
                "return over all steps. In brackets the 95 % percentile bootstrap interval over seeds, with "
                f"{INTERVALS_WITHIN_A_TASK:,} resamples; the interquartile mean (IQM) drops a quarter of the seeds, "
                "rounded down, at each end."
                + (" Success rate: mean over seeds, where the task tells success." if success else "")
            ),
            paragraph(
                f"Steps: where the IQM of the training return over seeds first is at the level at which "
                f"{document['reference']} ends (IQM over its seeds of the mean of the last {last} of training); the "
                f"interval resamples the algorithm's seeds and keeps the level. Curves are known in windows of steps, "
                f"so {document['reference']} itself may reach that level before its end. Seconds and steps/s: median "
                "over seeds, training alone."
            ),
            table("Scores over seeds, and speed", headings, rows, words=(0, 1)),
        )
    )


def _summary_row(key: str, row: Row, success: bool) -> list[str]:
    digits = _digits(row["final"]["iqm"])
    whole, steps = row["while_training"], row["steps_to_reference"]
    return [
        text_cell(row["env"]),
        text_cell(row["algo"]),
        number_cell(f"{key}.seeds", str(len(row["seeds"]))),
        estimate_cell(f"{key}.final.iqm", row["final"]["iqm"], row["final"]["iqm_interval"], digits),
        estimate_cell(f"{key}.final.mean", row["final"]["mean"], row["final"]["mean_interval"], digits),
        *([number_cell(f"{key}.success_rate", number_text(row["success_rate"], 2))] if success else []),
        number_cell(f"{key}.while_training", MISSING)
        if whole is None
        else estimate_cell(f"{key}.while_training.iqm", whole["iqm"], whole["iqm_interval"], digits),
        number_cell(f"{key}.steps_to_reference", MISSING) if steps is None else _steps_cell(key, steps),
        number_cell(f"{key}.wall_seconds", number_text(row["wall_seconds"], 0 if row["wall_seconds"] >= 10 else 1)),
        number_cell(f"{key}.steps_per_second", number_text(row["steps_per_second"])),
    ]


def _steps_cell(key: str, steps: Row) -> str:
    low, high = (_steps_text(end) for end in steps["interval"])
    return number_cell(f"{key}.steps_to_reference.value", f"{_steps_text(steps['value'])} [{low}, {high}]")


def _steps_text(value: float | None) -> str:
    return "never" if value is None else number_text(value)


def _digits(value: float) -> int:
    return 0 if abs(value) >= _LARGE else 2


def _aggregates(document: Row, pictures: Mapping[str, Sequence[Picture]]) -> str:
    resamples = f"{document['resamples']:,}"
    parts = [
        "<h2>All tasks together</h2>",
        paragraph(
            "After arXiv 2108.13264. Final returns are normalised per task: 0 is the mean over all runs of the first "
            "training return on record, of policies that have hardly learned; 1 is the mean final return of the "
            "algorithm where that is highest. Scores above 1 are therefore single runs better than the best mean. "
            "The best mean depends on which algorithms are compared, and so do these numbers."
        ),
        _normalisation(document["normalisation"]),
    ]
    if document["aggregates"]:
        parts += [
            paragraph(
                "IQM: over the pooled runs of all tasks. Median and mean: over tasks, of the mean over runs. "
                "Optimality gap: how far runs stay below 1 on average, lower is better. Intervals: 95 %, stratified "
                f"bootstrap (seeds are drawn within each task), {resamples} resamples."
            ),
            _aggregate_table(document["aggregates"]),
            _images(pictures["aggregates"]),
            "<h3>Performance profiles</h3>",
            paragraph("Fraction of runs above τ, mean over tasks; a curve that is higher everywhere is better."),
            _images(pictures["profiles"]),
        ]
    else:
        parts.append(paragraph("No task has normalised scores of every algorithm, so there are no aggregates."))
    return "\n".join([*parts, _improvement(document, pictures)])


def _normalisation(rows: Sequence[Row]) -> str:
    cells = [
        [
            text_cell(row["env"]),
            number_cell(f"normalisation.{i}.low", number_text(row["low"], _digits(row["high"]))),
            number_cell(f"normalisation.{i}.high", number_text(row["high"], _digits(row["high"]))),
            text_cell("yes" if row["left_out"] is None else f"no: {row['left_out']}"),
        ]
        for i, row in enumerate(rows)
    ]
    return table("Returns that become 0 and 1", ("task", "0", "1", "in the aggregates"), cells, words=(0, 3))


def _aggregate_table(rows: Sequence[Row]) -> str:
    names = {"iqm": "IQM", "median": "median", "mean": "mean", "optimality_gap": "optimality gap"}
    cells = [
        [
            text_cell(row["algo"]),
            *(
                estimate_cell(f"aggregates.{i}.{name}.value", row[name]["value"], row[name]["interval"], 2)
                for name in names
            ),
        ]
        for i, row in enumerate(rows)
    ]
    return table("Normalised final return over all tasks", ("algorithm", *names.values()), cells)


def _improvement(document: Row, pictures: Mapping[str, Sequence[Picture]]) -> str:
    baseline, rows = document["baseline"], document["improvement"]
    heading = f"<h3>Probability of improvement over {escape(baseline)}</h3>"
    if not rows:
        return f"{heading}\n{paragraph(f'There is no other algorithm on a task that {baseline} has runs on.')}"
    text = paragraph(
        f"P(X > {baseline}): how often a run of X ends above one of {baseline} on the same task, ties counting half "
        f"(Mann-Whitney). Over all tasks: the mean over those that both have. Intervals as above, both algorithms "
        "resampled; with few seeds those of a single task are wide."
    )
    overall = [_improvement_cell(f"improvement.{i}.overall", row["overall"]) for i, row in enumerate(rows)]
    cells = [[text_cell("all tasks"), *overall]]
    for task, env in enumerate(document["tasks"]):
        of_task = [_improvement_cell(f"improvement.{i}.tasks.{task}", row["tasks"][task]) for i, row in enumerate(rows)]
        cells.append([text_cell(env), *of_task])
    box = table(f"P(X > {baseline}) of the final return", ("task", *(row["algo"] for row in rows)), cells)
    return "\n".join((heading, text, box, _images(pictures["improvement"])))


def _improvement_cell(key: str, estimate: Row | None) -> str:
    if estimate is None:
        return number_cell(key, MISSING)
    return estimate_cell(f"{key}.value", estimate["value"], estimate["interval"], 2)


def _curves(pictures: Mapping[str, Sequence[Picture]]) -> str:
    return "\n".join(
        (
            "<h2>Learning curves</h2>",
            paragraph("Interquartile mean of the training return over seeds; the band is its 95 % bootstrap interval."),
            _panels(pictures["steps"]) or paragraph("No training episode ended in any run."),
            "<h3>Against wall-clock seconds</h3>",
            paragraph(
                "The same curves over the seconds that they took: lines hold the seconds of a whole run, so the speed "
                "of each algorithm, that of its median run, is drawn as constant."
            ),
            _panels(pictures["seconds"]),
        )
    )


def _traces(document: Row, pictures: Mapping[str, Sequence[Picture]]) -> str:
    parts = ["<h2>Ratio variance and λ</h2>"]
    for name, title in TRACE_TITLES.items():
        missing = document["not_recorded"][name]
        everyone = len(missing) == len(document["algorithms"])
        parts.append(f"<h3>{escape(title)}</h3>")
        if pictures[name]:
            parts.append(_panels(pictures[name]))
        if missing:
            parts.append(paragraph(f"Not recorded{'' if everyone else ' for ' + ', '.join(missing)}."))
    return "\n".join(parts)


def _videos(document: Row, films: Sequence[Path | None]) -> str:
    parts, missing = ["<h2>Videos of the best and the worst seed</h2>"], []
    shown = []
    for row, film in zip(document["videos"], films, strict=True):
        score = number_text(row["eval_return_mean"], _digits(row["eval_return_mean"]))
        label = f"{row['algo']} on {row['env']}, {row['kind']} seed ({row['seed']}), final return {score}"
        if film is None:
            missing.append(f"{row['algo']} on {row['env']} ({row['kind']})")
        else:
            shown.append(markup.video(film, label))
    if shown:
        parts.append(f'<div class="panels">{"".join(shown)}</div>')
    if not document["videos"]:
        parts.append(paragraph("None asked for."))
    elif not shown:
        parts.append(paragraph("There is no video of any of these runs."))
    elif missing:
        parts.append(paragraph(f"There is no video of {', '.join(missing)}."))
    return "\n".join(parts)


def _runs(document: Row) -> str:
    headings = ("task", "algorithm", "seed", "final return", "seconds", "commit")
    rows = [
        [
            text_cell(row["env"]),
            text_cell(row["algo"]),
            number_cell(f"runs.{i}.seed", str(row["seed"])),
            number_cell(f"runs.{i}.eval_return_mean", number_text(row["eval_return_mean"], 2)),
            number_cell(f"runs.{i}.wall_seconds", number_text(row["wall_seconds"], 1)),
            text_cell(row["commit"]),
        ]
        for i, row in enumerate(document["runs"])
    ]
    listing = table("Every run", headings, rows, words=(0, 1, 5))
    return f"<h2>Every run</h2>\n{folded(f'{len(rows)} runs', listing)}"


def _images(pictures: Sequence[Picture]) -> str:
    return "\n".join(markup.image(picture.path, picture.alt) for picture in pictures)


def _panels(pictures: Sequence[Picture]) -> str:
    return f'<div class="panels">{_images(pictures)}</div>' if pictures else ""
