"""``r2vpo llm`` from the outside."""

import json
import subprocess
import sys
import time

import pytest

from r2vpo.cli import main

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from tiny_models import save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("model"), scale=0.1))


@pytest.fixture
def dataset(tmp_path):
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{a}+1=", "answer": str(a + 1)}) + "\n" for a in range(40)))
    return str(path)


def words(model, dataset, run_dir):
    settings = {"prompts-per-iteration": 8, "group-size": 4, "minibatch-size": 16, "total-rollouts": 96}
    settings |= {"max-prompt-tokens": 16, "max-completion-tokens": 4, "reward": "number", "eval-problems": 8}
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return ["llm", "train", "--model", model, "--dataset", dataset, "--run-dir", str(run_dir), *flags]


def test_train_resume_plot_and_evaluate(tmp_path, model, dataset, capsys):
    run = tmp_path / "run"
    assert main([*words(model, dataset, run), "--eval-dataset", dataset, "--json", str(tmp_path / "copy.json")]) == 0
    said = capsys.readouterr().out
    assert "r2vpo-off (r2vpo, off-policy)" in said
    assert str(run / "curve.png") in said
    summary = json.loads((tmp_path / "copy.json").read_text())
    assert {"model", "dataset", "algo", "objective", "seed", "rollouts", "accuracy_greedy", "pass_at_1"} <= set(summary)
    assert {"samples_per_second", "train_seconds", "versions"} <= set(summary)
    assert summary["rollouts"] == 96
    assert main(["llm", "train", "--resume", str(run), "--quiet"]) == 0
    assert main(["plot", str(run)]) == 0
    assert (run / "figure2.png").stat().st_size > 10_000
    out = tmp_path / "evaluation"
    evaluate = ["llm", "evaluate", str(run), "--benchmarks", dataset, "--samples", "2", "--reward", "number"]
    assert main([*evaluate, "--out", str(out), "--quiet"]) == 0
    assert json.loads((out / "results.json").read_text())["benchmarks"]


def test_help_answers_without_torch():
    code = (
        "import sys\nfrom r2vpo.cli import main\n"
        "try:\n    main(['llm', 'train', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules, 'torch was loaded'"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--tokens-per-micro-batch" in done.stdout
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "ppo9"], "method='ppo9'"),
        (["--dataset", "no/such/file.jsonl"], "no/such/file.jsonl"),
        (["--reward", "nonsense"], "reward='nonsense'"),
        (["--model", "/no/such/model"], "model='/no/such/model'"),
    ],
)
def test_bad_arguments_are_explained_on_one_line(tmp_path, arguments, said, capsys):
    assert main(["llm", "train", "--run-dir", str(tmp_path / "run"), *arguments]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "run" / "config.json").exists()


def test_value_out_of_range_is_refused_with_the_arguments(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["llm", "train", "--top-p", "0.9"])
    assert stopped.value.code == 2
    assert "top_p=0.9 is not allowed" in capsys.readouterr().err


def test_unknown_command_names_those_there_are(capsys):
    assert main(["llm", "tune"]) == 2
    assert "train, evaluate, compare" in capsys.readouterr().err


def test_compare_runs_every_method_and_goes_on_where_it_stopped(tmp_path, model, dataset, capsys):
    from r2vpo.llm.experiments.compare import compare_jobs
    from r2vpo.llm.experiments.worker import Job
    from r2vpo.runs.study import read_results

    settings = {"prompts_per_iteration": 8, "group_size": 4, "minibatch_size": 16, "reward": ["number"]}
    settings |= {"max_prompt_tokens": 16, "max_completion_tokens": 4, "eval_every": 1, "eval_dataset": dataset}
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


def test_rollouts_to_an_accuracy_are_interpolated():
    from r2vpo.llm.experiments.summary import rollouts_to, sample_efficiency

    line = {"steps": [100, 200, 300], "accuracies": [0.5, 0.7, 0.6], "first_accuracy_greedy": 0.3}
    line["total_rollouts"] = 300
    assert rollouts_to(line, 0.6) == pytest.approx(150.0)
    assert rollouts_to(line, 0.4) == pytest.approx(50.0)
    assert rollouts_to(line, 0.3) == 0.0
    assert rollouts_to(line, 0.71) is None
    slow = {**line, "accuracies": [0.4, 0.5, 0.7]}
    figures = sample_efficiency([line], [slow])
    assert (figures["target"], figures["ratio"], figures["reached"]) == (0.7, pytest.approx(200 / 300), 1.0)
