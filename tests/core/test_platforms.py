"""Systems without what Unix alone has, and a terminal that knows ASCII alone: simulated, in processes of their own.

Windows itself has been tried nowhere.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from r2vpo.runs.interrupt import StopRequest, finish_iteration_on_interrupt

ROOT = Path(__file__).resolve().parents[2]
TRAIN = "--env Pendulum-v1 --total-steps 128 --num-envs 2 --rollout-steps 32 --minibatch-size 32 --epochs 1"
STUDY = "--env Pendulum-v1 --algos ppo --seeds 1 --total-steps 128 --episodes 1"
COMMANDS = f"""
import importlib, pkgutil, sys
import r2vpo.control, r2vpo.llm, r2vpo.envs
from r2vpo.cli import main
from r2vpo.processes import peak_mib, usable_cores

def words(text):
    sys.argv = ["r2vpo", *text.replace("OUT", OUT).split()]

OUT = sys.argv[1]
for package in (r2vpo, r2vpo.envs, r2vpo.control, r2vpo.llm, importlib.import_module("r2vpo.llm.rewards.verifier")):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if not module.ispkg and module.name != "r2vpo.llm.prime_rl":
            importlib.import_module(module.name)
for text in (
    "control train {TRAIN} --eval-episodes 1 --run-dir OUT/run",
    "control train --resume OUT/run --total-steps 192 --quiet",
    "control evaluate OUT/run --episodes 1",
    "control study {STUDY} --out OUT/study --quiet",
):
    words(text)
    assert main() == 0, text
words("llm train --reward math_verify --total-rollouts 64 --run-dir OUT/llm")
assert main() == 1
assert peak_mib() != peak_mib() and usable_cores() >= 1
"""


def lacking(tmp_path, *words):
    """Run Python where every process, workers too, lacks what other systems lack; returns its status and output."""
    (tmp_path / "sitecustomize.py").write_text("import lacking\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT / "tests" / "support")])
    ascii_only = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    environment = {**os.environ, **ascii_only, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    process = subprocess.run([sys.executable, *words], env=environment, cwd=ROOT, capture_output=True, text=True)
    return process.returncode, process.stdout + process.stderr


def test_commands_train_resume_evaluate_and_compare(tmp_path):
    pytest.importorskip("gymnasium")
    pytest.importorskip("transformers")
    status, said = lacking(tmp_path, "-c", COMMANDS, str(tmp_path / "out"))
    assert status == 0, said
    assert "\\xb1" in said  # the sign between mean and deviation, which ASCII does not have
    assert "this system has no timers" in said
    assert (tmp_path / "out" / "study" / "comparison.json").exists()


def test_core_passes_its_tests(tmp_path):
    files = [f"tests/core/{name}.py" for name in ("runs/test_checkpoint", "runs/test_directory", "test_settings")]
    status, said = lacking(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files)
    assert status == 0, said


def test_what_is_hidden_is_hidden(tmp_path):
    """The simulation itself: a module of ours does not see what the test does."""
    code = (
        "import os, signal; from r2vpo.runs import interrupt, workers\n"
        "assert hasattr(os, 'fork') and hasattr(signal, 'SIGKILL')\n"
        "assert not hasattr(workers.os, 'fork') and not hasattr(interrupt.signal, 'SIGKILL')\n"
        "assert not workers._HAS_SIGNALS\n"
    )
    assert lacking(tmp_path, "-c", code) == (0, "")


def test_a_signal_that_python_does_not_handle_is_left_alone(monkeypatch):
    """A program that embeds Python may have handlers of its own, which Python can neither name nor put back."""
    assert threading.current_thread() is threading.main_thread()
    handled = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(signal, "getsignal", lambda number: None if number == signal.SIGTERM else handled)
    monkeypatch.setattr(signal, "signal", lambda number, handler: installed.append(number))
    installed = []
    with finish_iteration_on_interrupt(StopRequest()):
        pass
    assert installed == [signal.SIGINT, signal.SIGINT]


def test_settings_of_another_editor_are_read(tmp_path):
    """Notepad begins a file with a mark, and a comment may be in any language whatever the locale."""
    from r2vpo.cli import read_settings

    path = tmp_path / "settings.yaml"
    path.write_bytes("\ufeffseed: 3  # Größe\n".encode())
    assert read_settings(path) == {"seed": 3}


def test_a_verifier_starts_where_address_space_cannot_be_limited():
    """As on macOS, where a process has reserved more than any such limit from the start."""
    code = (
        "import resource, sys\n"
        "sys.platform = 'darwin'\n"
        "resource.setrlimit = lambda kind, limits: set_for.append(kind)\n"
        "set_for = []\n"
        "from r2vpo.llm.rewards.verifier.confinement import confine\n"
        "confine(2**31)\n"
        "assert set_for == [resource.RLIMIT_CORE]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
