"""``r2vpo report`` writes and names its files, or nothing."""

import json

import pytest
from reports import two_algorithms, write_lines

from r2vpo import cli
from r2vpo.control.report.command import NUMBERS, PAGE, ReportCommand, write_report
from r2vpo.errors import ConfigError, R2VPOError, RunDirectoryError


def test_command_line_writes_and_names_the_files(tmp_path, capsys):
    folder = write_lines(tmp_path / "study", two_algorithms())
    words = [
        "report",
        str(folder / "runs.jsonl"),
        "--out",
        str(tmp_path / "out"),
        "--resamples",
        "50",
        "--no-interactive",
    ]
    assert cli.main(words) == 0
    said = capsys.readouterr()
    assert said.out.split() == [str(tmp_path / "out" / PAGE), str(tmp_path / "out" / NUMBERS)]
    assert "parts" in said.err
    assert json.loads((tmp_path / "out" / NUMBERS).read_text())["command"] == " ".join(["r2vpo", *words])
    assert cli.main([*words, "--baseline", "dqn"]) == 1
    assert "baseline='dqn' is not allowed: baseline must be one of ppo, new" in capsys.readouterr().err


def test_bad_files_and_settings_write_nothing(tmp_path):
    folder = write_lines(tmp_path / "study", two_algorithms())
    out = tmp_path / "out"

    def write(lines=(folder,), **settings):
        write_report(ReportCommand(lines, out, quiet=True, **settings), "r2vpo report")

    with pytest.raises(ConfigError, match=r"lines=.*none\.jsonl.*a file of study lines"):
        write((tmp_path / "none.jsonl",))
    with pytest.raises(ConfigError, match="lines="):
        write((tmp_path,))
    with pytest.raises(ConfigError, match="lines="):
        write(())
    with pytest.raises(R2VPOError, match="holds no study line"):
        write((write_lines(tmp_path / "empty", []),))
    (tmp_path / "text.jsonl").write_text("hello\n{}\n")
    with pytest.raises(R2VPOError, match="line 1: not JSON"):
        write((tmp_path / "text.jsonl",))
    (tmp_path / "list.jsonl").write_text("[1]\n")
    with pytest.raises(R2VPOError, match="a study line is an object"):
        write((tmp_path / "list.jsonl",))
    with pytest.raises(ConfigError, match="reference='dqn' is not allowed: reference must be one of ppo, new"):
        write(reference="dqn")
    with pytest.raises(ConfigError, match="resamples=0"):
        write(resamples=0)
    with pytest.raises(ConfigError, match="videos=-1"):
        write(videos=-1)
    assert not out.exists()
    out.write_text("a file in the place of the folder")
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        write(resamples=10)
