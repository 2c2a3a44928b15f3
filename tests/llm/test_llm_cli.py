"""``r2vpo llm`` from the outside."""

import json
import subprocess
import sys
import time

import pytest

from r2vpo.cli import main
from r2vpo.llm.cli import _report

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from tiny_models import save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("model"), scale=0.1))


@pytest.fixture
def dataset(tmp_path):
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps({"sum": f"{a}+1=", "gold": a + 1}) + "\n" for a in range(40)))
    return str(path)


def words(model, dataset, run_dir):
    settings = {"prompts-per-iteration": 8, "group-size": 4, "minibatch-size": 16, "total-rollouts": 96}
    settings |= {"max-prompt-tokens": 16, "max-completion-tokens": 4, "reward": "number", "eval-problems": 8}
    settings |= {"prompt-column": "sum", "answer-column": "gold"}
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


@pytest.mark.parametrize(("flag", "advanced"), [("--help", False), ("--help-advanced", True)])
def test_help_answers_without_torch(flag, advanced):
    code = (
        "import sys\nfrom r2vpo.cli import main\n"
        f"try:\n    main(['llm', 'train', {flag!r}])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules, 'torch was loaded'"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--minibatch-size" in done.stdout
    assert ("--tokens-per-micro-batch" in done.stdout) == advanced
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "ppo9"], "method='ppo9'"),
        (["--utd", "0"], "utd=0.0 is not allowed"),
        (["--dataset", "no/such/file.jsonl"], "no/such/file.jsonl"),
        (["--reward", "nonsense"], "reward='nonsense'"),
        (["--model", "/no/such/model"], "model='/no/such/model'"),
        (["--answer-column", "gold"], "answer_column='gold' is not allowed: answer_column must be one of the columns"),
        (["--max-prompt-tokens", "9999"], "context is"),
    ],
)
def test_bad_arguments_are_explained_on_one_line(tmp_path, arguments, said, capsys):
    assert main(["llm", "train", "--run-dir", str(tmp_path / "run"), *arguments]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "run" / "config.json").exists()


def test_what_a_run_lacks_is_said_with_the_command_that_makes_it(tmp_path, capsys):
    summary = {"accuracy_greedy": None, "train_seconds": 1.0, "samples_per_second": 32.0}
    _report({**summary, "missing": {"evaluation": "NoVerdicts: nobody judged"}}, tmp_path, None)
    said = f"no evaluation: NoVerdicts: nobody judged; to try it again: r2vpo llm train --resume {tmp_path}"
    assert said in capsys.readouterr().out


def test_unknown_command_names_those_there_are(capsys):
    assert main(["llm", "tune"]) == 2
    assert "train, evaluate, compare" in capsys.readouterr().err
