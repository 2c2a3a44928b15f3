"""Study lines as they are read: whole, once, on one grid; bad ones are named."""

import pytest
from reports import line, two_algorithms, write_lines

from r2vpo.control.report.lines import FIELDS, read_study
from r2vpo.errors import R2VPOError


def test_two_files_make_one_report_and_a_cut_last_line_is_left_out(tmp_path):
    lines = two_algorithms()
    first, second = write_lines(tmp_path / "a", lines[:4]), write_lines(tmp_path / "b", lines[4:])
    with (second / "runs.jsonl").open("a") as file:
        file.write('{"algo": "new", "env')
    assert len(read_study([first, second / "runs.jsonl"]).runs) == 8


@pytest.mark.parametrize("field", FIELDS)
def test_missing_and_wrong_fields_are_named(tmp_path, field):
    good = line("ppo", 0, 1.0)
    with pytest.raises(R2VPOError, match=f"line 2 has no field '{field}'"):
        read_study([write_lines(tmp_path, [good, {k: v for k, v in good.items() if k != field}])])
    with pytest.raises(R2VPOError, match=f"line 1: {field}=.* must be "):
        read_study([write_lines(tmp_path, [{**good, field: {}}])])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"eval_return_mean": float("nan")}, "eval_return_mean=nan is not allowed"),
        ({"returns": [1.0]}, "a number or null for each of the 4 steps"),
        ({"lam": [1.0, 2.0]}, "lam=.* a number or null for each of the 4 steps"),
        ({"settings": 3}, "settings=3 is not allowed"),
        ({"success_rate": "often"}, "success_rate='often' is not allowed"),
        ({"seed": 0}, "seed='0, twice for ppo on Hop-v0'"),
        ({"total_steps": 800}, "total_steps='400 and 800 on Hop-v0' is not allowed.*the same in every run of a task"),
        ({"steps": [1, 2, 3, 4]}, "steps=.*differs on Hop-v0.*the same grid"),
        ({"steps": [4, 3, 2, 1]}, "ascending"),
    ],
)
def test_lines_that_do_not_fit_are_named(tmp_path, change, said):
    lines = [line("ppo", 0, 1.0), line("ppo", 1, 2.0) | change]
    with pytest.raises(R2VPOError, match=said):
        read_study([write_lines(tmp_path, lines)])
