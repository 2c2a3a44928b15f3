"""The list of runs behind every study: nothing is lost, doubled or done twice, and Ctrl-C lets each run save."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import study_worker
from killing import send_when, start, wait_until
from study_worker import Cell

from r2vpo.errors import R2VPOError, RunDirectoryError
from r2vpo.runs.directory import take_lock
from r2vpo.runs.study import finished_lines, makespan, raise_failures, read_results, run_jobs, units_done

WAITING = "import sys, pathlib, study_worker; study_worker.wait_for_ever(pathlib.Path(sys.argv[1]))"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(study_worker.__file__).parent))
    (tmp_path / "out" / "runs").mkdir(parents=True)
    return tmp_path / "out"


def cells(**how):
    return [Cell(seed, how.get(f"seed{seed}", "end")) for seed in range(3)]


def seeds_of(folder):
    return [line["seed"] for line in read_results(folder / "runs.jsonl")]


def test_failed_run_is_reported_the_others_are_kept_and_only_it_is_run_again(folder, monkeypatch):
    failures = run_jobs(cells(seed1="fail"), folder, 2, quiet=True)
    assert failures == ["seed 1: the disk is full"]
    assert set(seeds_of(folder)) == {0, 2}
    assert run_jobs(cells(), folder, 2, quiet=True) == []
    assert seeds_of(folder)[2:] == [1]
    assert list(finished_lines(cells(), folder)) == ["seed0", "seed1", "seed2"]
    assert {line["threads"] for line in read_results(folder / "runs.jsonl")} == {"1"}
    monkeypatch.setattr("r2vpo.runs.workers.Workers._start", lambda *_: pytest.fail("nothing was to be run"))
    assert run_jobs(cells(), folder, 2, quiet=True) == []


def test_line_cut_short_by_a_kill_is_run_again(folder):
    run_jobs(cells(), folder, 2, quiet=True)
    results = folder / "runs.jsonl"
    results.write_text(results.read_text()[:-4])
    assert len(read_results(results)) == 2
    run_jobs(cells(), folder, 2, quiet=True)
    assert sorted(seeds_of(folder)) == [0, 1, 2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_save_at_an_interrupt_and_end_with_a_killed_parent(folder, number):
    process = start("-c", WAITING, str(folder))
    send_when(process, number, lambda: len(list((folder / "runs").glob("pid*"))) == 2)
    workers = [int(path.name[3:]) for path in (folder / "runs").glob("pid*")]
    assert len(workers) == 2
    wait_until(lambda: not any(map(is_alive, workers)))
    saved = sorted(path.name for path in (folder / "runs").glob("saved*"))
    assert saved == (["saved0", "saved1"] if number == signal.SIGINT else [])
    assert seeds_of(folder) == []


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_lock_is_one_process_and_goes_with_it(tmp_path):
    used = pytest.raises(RunDirectoryError, match=r"out=.*in use by another process")
    with take_lock(tmp_path / "out", "out"), used:
        take_lock(tmp_path / "out", "out")
    code = "import sys; from pathlib import Path; from r2vpo.runs.directory import take_lock\n"
    code += "lock = take_lock(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", code, str(tmp_path / "out")]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    with pytest.raises(RunDirectoryError, match="in use by another process"):
        take_lock(tmp_path / "out")
    process.kill()
    process.communicate()
    take_lock(tmp_path / "out").lock.release()
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match=r"run_dir=.*cannot be written"):
        take_lock(tmp_path / "file" / "run")


def test_units_of_a_half_done_run_are_those_of_its_last_whole_line(tmp_path):
    assert units_done(Cell(0), tmp_path) == 0
    (tmp_path / "seed0").mkdir()
    lines = "".join(json.dumps({"step": step}) + "\n" for step in (3, 6))
    (tmp_path / "seed0" / "metrics.jsonl").write_text(lines + '{"step": 9')
    assert units_done(Cell(0), tmp_path) == 6


def test_failures_are_said_with_the_first(capsys):
    raise_failures([], 2)
    with pytest.raises(R2VPOError, match="2 of 3 seeds failed; the first: one"):
        raise_failures(["one", "two"], 3, "seeds")
    assert capsys.readouterr().err == "two\n"


def test_makespan_by_hand():
    assert makespan([15.0, 40.0, 30.0, 50.0], 2) == 90.0  # 15 + 30 against 40 + 50
