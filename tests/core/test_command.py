"""The r2vpo command itself; what its groups do is tested beside them."""

import os
import subprocess
import sys

import pytest

from r2vpo import cli


@pytest.mark.parametrize("buffering", [{"PYTHONUNBUFFERED": "1"}, {"PYTHONUNBUFFERED": ""}])
def test_output_that_nobody_reads_ends_the_command_without_a_traceback(buffering):
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "r2vpo.cli", "--help"]
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, env=os.environ | buffering)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_pipe_that_breaks_elsewhere_is_an_error(monkeypatch):
    def broken(words):
        raise BrokenPipeError("a worker is gone")

    monkeypatch.setattr(cli, "_run", broken)
    with pytest.raises(BrokenPipeError, match="a worker is gone"):
        cli.main([])


@pytest.mark.parametrize(("words", "status"), [([], 2), (["--help"], 0), (["--version"], 0), (["polish"], 2)])
def test_status(words, status, capsys):
    assert cli.main(words) == status
    assert "".join(capsys.readouterr()).startswith(("usage: r2vpo", "r2vpo"))
