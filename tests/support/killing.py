"""Commands in processes of their own that are stopped or killed in the middle."""

import os
import signal
import subprocess
import sys
import time

import pytest

TIMES = {"wall_seconds", "steps_per_second", "samples_per_second", "command", "commit"}


def start(*words):
    """A command of the library; its output is one stream."""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, *words], stdout=pipe, stderr=subprocess.STDOUT, text=True)


def wait_until(condition, process=None, seconds=240):
    """Fails where the process ends first."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and (process is None or process.poll() is None):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail(process.stdout.read() if process is not None and process.poll() is not None else "too slow")


def send_when(process, number, condition):
    """Send a signal once the condition holds; returns what the command had said."""
    wait_until(condition, process)
    os.kill(process.pid, number)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == (-number if number == signal.SIGKILL else 130), said
    return said


def iterations(folder):
    """Lines that all runs below a folder have recorded so far, those of the run that is furthest behind first."""
    return sorted(path.read_text().count("\n") for path in folder.rglob("metrics.jsonl"))


def without_times(lines):
    """Study lines in an order of their own, less what differs from run to run."""
    return sorted(({k: v for k, v in line.items() if k not in TIMES} for line in lines), key=str)
