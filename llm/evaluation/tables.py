"""What a person reads after an evaluation: figures on the terminal, the best and worst answers, bars with intervals."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r2vpo.llm.evaluation.completions import Line, read_groups
from r2vpo.llm.evaluation.tally import Estimate, EvaluationResult
from r2vpo.runs.checkpoint import write_text_atomically
from r2vpo.runs.plotting import new_figure, save_figure

SHOWN_PROBLEMS = 40
"""Problems of a benchmark in the table of answers."""
_PROBLEM_CHARACTERS, _ANSWER_CHARACTERS, _TRUTH_CHARACTERS = 400, 700, 120
_COLORS = ("#0072B2", "#56B4E9", "#009E73", "#CC79A7", "#E69F00", "#999999")


def print_results(results: Mapping[str, EvaluationResult]) -> None:
    """Print one row a benchmark: problems, rates, tokens of an answer, answers cut off and without a verdict."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title="percent of problems solved [95 % bootstrap interval over problems]", box=box.SIMPLE)
    table.add_column("benchmark", no_wrap=True)
    for heading in ("n", *_rates(results), "tokens", "cut", "excl.", "tok/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, result in results.items():
        estimates = _estimates(result)
        table.add_row(
            name,
            str(result.problems),
            *(_percent(estimates.get(rate)) for rate in _rates(results)),
            _number(result.mean_tokens),
            "-" if result.cut_off is None else f"{100 * result.cut_off:.1f}%",
            str(result.excluded),
            _number(result.tokens_per_second),
        )
    Console(width=120).print(table)
    for name, result in results.items():
        for function, number in result.excluded_by_function.items():
            raised = f", at last it raised {result.reward_errors[function]}" if function in result.reward_errors else ""
            print(f"{name}: reward {function!r} had no verdict on {number} answers{raised}")


def write_answers_table(files: Mapping[str, Path], output: Path, problems: int = SHOWN_PROBLEMS) -> Path:
    """Write the best and the worst answer to each problem as a Markdown table, problems with both kinds first.

    Args:
        files: Completions file of each benchmark.
        output: The file to write.
        problems: Most problems shown of one benchmark; long texts are cut in the middle, for an answer stands last.
    """
    sections = ["# Best and worst answers\n"]
    for name, file in files.items():
        rows: list[tuple[bool, int, str]] = []
        for group in read_groups(file):
            known = sorted((line for line in group if line["reward"] is not None), key=lambda line: line["reward"])
            if known:
                mixed = known[0]["reward"] != known[-1]["reward"]
                rows.append((not mixed, len(rows), _row(known[-1], known[0], len(known), len(group))))
        shown = [text for *_, text in sorted(rows)[:problems]]
        sections.append(f"\n## {name}\n\n{len(shown)} of {len(rows)} problems with verdicts.\n")
        sections.append(
            "| problem | best answer | reward | worst answer | reward | verdicts |\n|---|---|---|---|---|---|"
        )
        sections += shown
    write_text_atomically(output, "\n".join(sections) + "\n")
    return output


def plot_results(results: Mapping[str, EvaluationResult], title: str, output: Path) -> Path:
    """Bars of every rate on every benchmark, with 95 % intervals."""
    rates, names = _rates(results), list(results)
    figure, axes = new_figure(1, 1, (max(5.0, 1.6 + 0.55 * len(names) * (len(rates) + 1)), 4.2))
    axis, width = axes[0, 0], 0.8 / max(1, len(rates))
    for i, rate in enumerate(rates):
        estimates = [_estimates(result).get(rate) for result in results.values()]
        places = np.arange(len(names)) + (i - (len(rates) - 1) / 2) * width
        known = [(x, e) for x, e in zip(places, estimates, strict=True) if e is not None and e.value is not None]
        heights = np.array([100 * (e.value or 0.0) for _, e in known])
        lows, highs = (np.array([100 * getattr(e, end) for _, e in known]) for end in ("low", "high"))
        color = _COLORS[i % len(_COLORS)]
        bars = axis.bar([x for x, _ in known], heights, 0.92 * width, color=color, label=rate)
        errors = np.maximum([heights - lows, highs - heights], 0.0) if known else None
        axis.errorbar([x for x, _ in known], heights, errors, fmt="none", ecolor="black", elinewidth=1, capsize=2.5)
        for bar, high in zip(bars, highs, strict=True):
            middle = bar.get_x() + bar.get_width() / 2
            axis.annotate(
                f"{bar.get_height():.1f}", (middle, high), (0, 2), textcoords="offset points", ha="center", fontsize=7
            )
    axis.set_xticks(range(len(names)), [f"{n}\n({results[n].problems} problems)" for n in names], fontsize=8)
    axis.set_ylabel("problems solved (%)")
    axis.set_ylim(0, 106)
    axis.set_yticks(range(0, 101, 20))
    axis.grid(axis="x", visible=False)
    axis.set_axisbelow(True)
    axis.set_title(title, fontsize=10)
    figure.legend(loc="outside lower center", ncols=len(rates), fontsize=8)
    return save_figure(figure, output)


def _estimates(result: EvaluationResult) -> dict[str, Estimate]:
    rates = {f"pass@{k}": estimate for k, estimate in result.pass_at_k.items()}
    return rates | ({"greedy": result.greedy_accuracy} if result.greedy_accuracy is not None else {})


def _rates(results: Mapping[str, EvaluationResult]) -> list[str]:
    return list(dict.fromkeys(rate for result in results.values() for rate in _estimates(result)))


def _percent(estimate: Estimate | None) -> str:
    if estimate is None or estimate.value is None or estimate.low is None or estimate.high is None:
        return "-"
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _row(best: Line, worst: Line, known: int, lines: int) -> str:
    truth = "" if best["answer"] is None else f"<br><br>**{_cell(str(best['answer']), _TRUTH_CHARACTERS)}**"
    cells: Sequence[Any] = (
        f"{_cell(best['id'], _TRUTH_CHARACTERS)}: {_cell(_prompt_text(best['prompt']), _PROBLEM_CHARACTERS)}{truth}",
        _cell(best["completion"], _ANSWER_CHARACTERS),
        f"{best['reward']:g}",
        _cell(worst["completion"], _ANSWER_CHARACTERS),
        f"{worst['reward']:g}",
        f"{known} of {lines}",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def _cell(text: str, characters: int) -> str:
    """Text of a table cell; of a long one, the first third and the last two thirds of what fits."""
    text = text.strip()
    if len(text) > characters:
        left_out = len(text) - characters
        text = f"{text[: characters // 3]} … [{left_out:,} characters] … {text[-(characters - characters // 3) :]}"
    return html.escape(text, quote=False).replace("|", "\\|").replace("\r", "").replace("\n", "<br>")


def _prompt_text(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and prompt and isinstance(prompt[-1], dict):
        return str(prompt[-1].get("content", ""))
    return str(prompt)
