"""The r2vpo command itself; what its groups do is tested beside them."""

import importlib
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


def test_modules_beside_the_user_are_found_by_the_installed_command_too(tmp_path, monkeypatch):
    """``python -m`` looks in the current folder by itself, a script in another folder does not."""
    (tmp_path / "of_the_user.py").write_text("TASK = 'Mine-v0'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    assert cli.main(["--version"]) == 0
    assert importlib.import_module("of_the_user").TASK == "Mine-v0"
