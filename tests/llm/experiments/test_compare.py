"""Comparisons of methods: nothing is trained twice, killed ones go on, and what the table says by hand."""

import json
import signal
import time

import pytest
from killing import iterations, send_when, start, without_times

from r2vpo.cli import main
from r2vpo.errors import R2VPOError
from r2vpo.llm import training
from r2vpo.llm.experiments import worker
from r2vpo.llm.experiments.compare import compare_jobs
from r2vpo.llm.experiments.summary import (
    plot_methods,
    print_table,
    rollouts_to,
    sample_efficiency,
    summarise_methods,
)
from r2vpo.llm.experiments.worker import Job
from r2vpo.runs.study import read_results

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from tiny_models import save_tiny

SETTINGS = {"prompts_per_iteration": 8, "group_size": 4, "minibatch_size": 16, "reward": ["number"]}
SETTINGS |= {"max_prompt_tokens": 16, "max_completion_tokens": 4}
KILLED = """
import json, sys
from pathlib import Path
from r2vpo.llm.experiments.compare import compare_jobs
from r2vpo.llm.experiments.worker import Job
model, dataset, out = sys.argv[1:4]
compare_jobs([Job(m, 0, model, dataset, 960, json.loads(sys.argv[4])) for m in ("grpo", "r2vpo-off")], Path(out))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("model"), scale=0.1))


@pytest.fixture
def dataset(tmp_path):
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{a}+1=", "answer": str(a + 1)}) + "\n" for a in range(40)))
    return str(path)


def test_compare_runs_every_method_and_goes_on_where_it_stopped(tmp_path, model, dataset, capsys):
    settings = SETTINGS | {"eval_every": 1, "eval_dataset": dataset}
    jobs = [Job(m, s, model, dataset, 64, settings, keep=s == 0) for s in (0, 1) for m in ("grpo", "r2vpo-off")]
    document = compare_jobs(jobs, tmp_path / "out", quiet=True)
    assert [row["method"] for row in document["comparison"]] == ["grpo", "r2vpo-off"]
    assert document["comparison"][0]["sample_efficiency"]["reached"] == 1.0
    lines = read_results(tmp_path / "out" / "runs.jsonl")
    assert len(lines) == 4
    assert all(len(line["accuracies"]) == len(line["rewards"]) == 2 for line in lines)
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 10_000
    started = time.monotonic()
    assert compare_jobs(jobs, tmp_path / "out", quiet=True)["comparison"] == document["comparison"]
    assert len(read_results(tmp_path / "out" / "runs.jsonl")) == 4
    assert time.monotonic() - started < 30
    kept = [tmp_path / "out" / "curves" / f"{method}-seed0" for method in ("grpo", "r2vpo-off")]
    assert sorted((tmp_path / "out" / "curves").iterdir()) == kept
    assert main(["plot", *map(str, kept), "--output", str(tmp_path)]) == 0
    assert (tmp_path / "figure2.png").stat().st_size > 10_000
    assert (tmp_path / "figure3.png").stat().st_size > 10_000


@pytest.mark.slow
def test_killed_comparison_goes_on_to_the_same_end(tmp_path, model, dataset):
    evaluated = {"eval_every": 10, "eval_samples": 0, "eval_dataset": dataset}
    settings = json.dumps(SETTINGS | evaluated | {"checkpoint_seconds": 0.0})
    out, whole = tmp_path / "killed", tmp_path / "whole"
    words = ["-c", KILLED, model, dataset]
    process = start(*words, str(out), settings)
    send_when(process, signal.SIGKILL, lambda: len(iterations(out)) == 2 and iterations(out)[0] >= 5)
    with (out / "runs.jsonl").open("a") as file:
        file.write('{"method": "grpo", "seed": 0')  # a kill in the middle of a line
    for folder in (out, whole):
        process = start(*words, str(folder), settings)
        said = process.communicate(timeout=240)[0]
        assert process.returncode == 0, said
    lines = [read_results(folder / "runs.jsonl") for folder in (out, whole)]
    assert [len(line["rewards"]) for line in lines[0]] == [30, 30]
    assert without_times(lines[0]) == without_times(lines[1])


def test_rollouts_to_an_accuracy_are_interpolated():
    line = {"steps": [100, 200, 300], "accuracies": [0.5, 0.7, 0.6], "first_accuracy_greedy": 0.3}
    line["total_rollouts"] = 300
    assert rollouts_to(line, 0.6) == pytest.approx(150.0)
    assert rollouts_to(line, 0.4) == pytest.approx(50.0)
    assert rollouts_to(line, 0.3) == 0.0
    assert rollouts_to(line, 0.71) is None
    slow = {**line, "accuracies": [0.4, 0.5, 0.7]}
    figures = sample_efficiency([line], [slow])
    assert (figures["target"], figures["ratio"], figures["reached"]) == (0.7, pytest.approx(200 / 300), 1.0)


def test_methods_without_evaluations_have_a_row():
    line = {"label": "grpo", "seed": 0, "total_rollouts": 8, "accuracy_greedy": 0.5, "pass_at_1": None}
    line |= {"accuracies": [], "steps": [], "first_accuracy_greedy": 0.4, "samples_per_second": 1.0}
    (row,) = summarise_methods([line])
    assert row["accuracy_greedy"]["mean"] == 0.5
    assert "sample_efficiency" not in row


def test_figures_that_a_run_lacks_are_left_out_and_nothing_else(tmp_path, capsys):
    whole = {"label": "grpo", "seed": 0, "total_rollouts": 64, "steps": [32, 64], "accuracies": [0.5, 1.0]}
    whole |= {"rewards": [0.1, 0.2], "ratio_variances": [0.1, 0.1], "entropies": [1.0, 1.0], "samples_per_second": 1.0}
    whole |= {"accuracy_greedy": 1.0, "pass_at_1": 0.75, "first_accuracy_greedy": 0.25}
    gap = {**whole, "label": "r2vpo-off", "steps": [64], "accuracies": [1.0]}
    nothing = {**gap, "seed": 1, "steps": [], "accuracies": []}
    nothing |= {"accuracy_greedy": None, "pass_at_1": None, "first_accuracy_greedy": None}
    rows = {row["method"]: row for row in summarise_methods([whole, gap, nothing])}
    assert rows["grpo"]["sample_efficiency"]["target"] == 1.0
    assert rows["grpo"]["pass_at_1"]["mean"] == 0.75
    assert not {"accuracy_greedy", "pass_at_1", "sample_efficiency"} & rows["r2vpo-off"].keys()
    assert rows["r2vpo-off"]["seeds"] == [0, 1]
    print_table(list(rows.values()))
    assert "r2vpo-off" in capsys.readouterr().out
    assert plot_methods([whole, gap, nothing], tmp_path / "picture.png").stat().st_size > 10_000


def test_a_run_that_could_not_be_evaluated_fails_and_is_kept(tmp_path, model, dataset, monkeypatch):
    settings = SETTINGS | {"eval_every": 0, "eval_samples": 0, "eval_dataset": dataset}
    job = Job("grpo", 0, model, dataset, 32, settings)

    def broken(*arguments):
        raise OSError("no network")

    with monkeypatch.context() as patched:
        patched.setattr(training, "judged_accuracy", broken)
        with pytest.raises(R2VPOError, match="grpo, seed 0: trained, but not evaluated: OSError: no network"):
            worker.run(job, tmp_path)
    assert (tmp_path / job.folder / "checkpoints" / "latest.zip").exists()
    line = worker.run(job, tmp_path)
    assert 0 <= line["accuracy_greedy"] <= 1
    assert not (tmp_path / job.folder).exists()


def test_a_dataset_that_cannot_be_read_is_refused_before_any_run(tmp_path, model, dataset, capsys):
    words = ["llm", "compare", "--model", model, "--dataset", dataset, "--out", str(tmp_path / "out"), "--seeds", "1"]
    assert main([*words, "--answer-column", "gold"]) != 0
    assert "answer_column='gold'" in capsys.readouterr().err
    assert main([*words, "--reward", "no_such_reward"]) != 0
    assert "no_such_reward" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
