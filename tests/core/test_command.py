"""The r2vpo command itself; what its groups do is tested beside them."""

import os
import subprocess
import sys

import pytest

from r2vpo import cli


@pytest.mark.parametrize(("module", "unbuffered"), [("r2vpo", "1"), ("r2vpo.cli", "")])
def test_output_that_nobody_reads_ends_the_command_without_a_traceback(module, unbuffered):
    read_end, write_end = os.pipe()
    os.close(read_end)
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], stdout=write_end, stderr=subprocess.PIPE, env=environment
    )
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


def test_the_package_itself_is_the_command():
    done = subprocess.run([sys.executable, "-m", "r2vpo", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("r2vpo ")
