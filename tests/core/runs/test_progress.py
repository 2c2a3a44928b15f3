"""What is shown while runs train: rows with speed and time left, and plain lines without a terminal."""

import time

import pytest
from rich.console import Console

from r2vpo.runs.progress import LiveLine, LiveTable, clock_text, figure_text


@pytest.fixture
def now(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    return clock


def shown(table):
    console = Console(width=160)
    with console.capture() as capture:
        console.print(table._table.get_renderable())
    return {line.split("  ")[0].strip().split(" ")[0]: line for line in capture.get().splitlines() if line.strip()}


def test_table_has_a_row_a_run_and_their_totals(now):
    table = LiveTable("seed", {s: (f"seed{s}", 1000) for s in range(4)}, quiet=True)
    table.update(0, "done", 1000, {"return": 321.0})  # before this process began
    table.update(1, "waiting", 200, {})
    table.update(1, "starting", 0, {})
    table.update(1, "training", 100, {"return": None, "lambda": 0.5})
    now[0] += 10.0
    table.update(1, "training", 600, {"return": 12.34})
    table.update(2, "failed", 0, {})
    rows = shown(table)
    assert list(rows) == ["seed0", "seed1", "seed2", "seed3", "all"]
    assert [word in rows["seed0"] for word in ("done", "100 %", "return 321.0", "ETA", "steps/s")] == [1, 1, 1, 0, 0]
    # 500 steps in 10 s, 400 are left.
    for word in ("training", "60 %", "50 steps/s", "ETA 0:08", "return 12.3", "lambda 0.500"):
        assert word in rows["seed1"]
    assert "failed" in rows["seed2"]
    assert "waiting" in rows["seed3"]
    # 1,600 of 4,000 steps are done, 500 of them in 10 s; 2,400 are left.
    for word in ("1/4 done", "40 %", "50 steps/s", "ETA 0:48"):
        assert word in rows["all"]
    now[0] += 10.0
    table.update(1, "evaluating", 1000, {})
    now[0] += 100.0  # an evaluation is no part of the speed
    assert "45 steps/s" in shown(table)["seed1"]


def test_table_of_many_runs_shows_those_under_way(now):
    table = LiveTable("run", {key: (f"run{key}", 100) for key in range(30)}, quiet=True)
    table.update(0, "done", 100, {})
    table.update(1, "training", 10, {})
    table.update(2, "failed", 10, {})
    assert list(shown(table)) == ["run1", "run2", "all"]


def test_slowest_row_bounds_the_time_left_of_all(now):
    table = LiveTable("run", {0: ("slow", 100), 1: ("fast", 1000)}, quiet=True)
    for key in (0, 1):
        table.update(key, "training", 0, {})
    now[0] += 10.0
    table.update(0, "training", 10, {})
    table.update(1, "training", 990, {})
    # Together 100 steps are left at 100 a second, but the slow one alone needs 90 s.
    assert "ETA 1:30" in shown(table)["all"]


def test_table_is_a_line_without_a_terminal(capsys):
    with LiveTable("seed", {0: ("seed 0", 10), 1: ("seed 1", 10)}) as table:
        table.update(0, "training", 5, {"return": 20.0, "lambda": 1.0})
        table.update(0, "training", 6, {})
        table.update(0, "done", 10, {})
        table.update(1, "done", 10, {})
    lines = capsys.readouterr().err.strip().split("\n")
    assert len(lines) == 2
    assert lines[0].startswith("0/2 seeds  5/20 steps")
    assert lines[0].endswith("seed 0 50 % return 20.0")
    assert lines[1].startswith("2/2 seeds  20/20 steps")


def test_line_says_speed_time_left_and_figures(now, capsys):
    with LiveLine(1000, "steps", done=200) as line:
        now[0] += 10.0
        line.update(600, **{"return": -3.0}, ratio_var=None, now="Hopper")
        now[0] += 1.0
        line.update(700)  # too soon for another line
        line.update(1000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "600/1,000 steps  40/s  ETA 0:10  return -3.000  ratio var -  now Hopper"
    assert lines[1].startswith("1,000/1,000 steps  73/s  ETA 0:00")
    assert len(lines) == 2
    with LiveLine(10, quiet=True) as line:
        line.update(10)
    assert capsys.readouterr().err == ""


def test_words_for_numbers():
    assert [clock_text(s) for s in (None, 9.9, 75, 3_725)] == ["-", "0:09", "1:15", "1:02:05"]
    assert [figure_text(v) for v in (None, "x", 12.34, 0.1234)] == ["-", "x", "12.3", "0.123"]
