"""The resumable list of runs behind every comparison."""

from dataclasses import dataclass

import pytest

from r2vpo.runs.study import Cell, read_results, run_cells

WORKER = """
import json, sys
job = json.loads(sys.argv[1])
print(json.dumps({"step": 5}), flush=True)
print("a library greets on standard output")
if job["seed"] == 1:
    sys.exit("the disk is full")
print(json.dumps({"result": job}), flush=True)
"""


@dataclass(frozen=True)
class Job:
    seed: int


@pytest.fixture
def worker(tmp_path, monkeypatch):
    (tmp_path / "study_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "study_worker.py"


def run(tmp_path):
    cells = [Cell(Job(seed), seed, 10, f"seed {seed}") for seed in range(3)]
    results = tmp_path / "runs.jsonl"
    failures = run_cells(cells, results, lambda line: line["seed"], "study_worker", tmp_path, 2, "steps", quiet=True)
    return failures, [line["seed"] for line in read_results(results)]


def test_failed_run_is_reported_and_the_others_are_kept(tmp_path, worker):
    failures, seeds = run(tmp_path)
    assert len(failures) == 1
    assert failures[0].startswith("seed 1")
    assert "the disk is full" in failures[0]
    assert set(seeds) == {0, 2}


def test_second_call_runs_only_what_is_missing(tmp_path, worker):
    run(tmp_path)
    worker.write_text(worker.read_text().replace('sys.exit("the disk is full")', "pass"))
    failures, seeds = run(tmp_path)
    assert failures == []
    assert sorted(seeds) == [0, 1, 2]
    worker.write_text("raise SystemExit('nothing was to be run')")
    assert run(tmp_path) == ([], seeds)


def test_line_cut_short_by_a_kill_is_run_again(tmp_path, worker):
    worker.write_text(WORKER.replace('sys.exit("the disk is full")', "pass"))
    _, seeds = run(tmp_path)
    text = (tmp_path / "runs.jsonl").read_text()
    (tmp_path / "runs.jsonl").write_text(text[:-4])
    assert len(read_results(tmp_path / "runs.jsonl")) == 2
    _, seeds = run(tmp_path)
    assert sorted(seeds) == [0, 1, 2]
