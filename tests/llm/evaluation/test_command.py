"""r2vpo llm evaluate: what it is pointed at, its defaults, its files, and what it refuses."""

import json
import subprocess
import sys
import time

import pytest
from adding_engine import AddingEngine, CharacterTokenizer, rows

from r2vpo.cli import main
from r2vpo.errors import ConfigError, NoVerdicts, RewardError, RunDirectoryError
from r2vpo.llm.evaluation import command as evaluate_command
from r2vpo.llm.evaluation.command import EvaluateCommand, default_reward, make_protocol, with_own_bar
from r2vpo.llm.evaluation.protocol import EvaluationProtocol
from r2vpo.llm.evaluation.target import find_model, weights_fingerprint


@pytest.fixture
def trained_run(tmp_path, monkeypatch):
    """A run directory with a model, and a command line whose model is the adding engine."""
    run_dir = tmp_path / "run"
    (run_dir / "model").mkdir(parents=True)
    (run_dir / "model" / "config.json").write_text('{"model_type": "qwen2"}')
    (run_dir / "model" / "model.safetensors").write_bytes(b"weights")
    (run_dir / "config.json").write_text(json.dumps({"kind": "llm", "max_completion_tokens": 8, "method": "grpo"}))
    engine = AddingEngine()
    monkeypatch.setattr(evaluate_command, "_load", lambda *arguments: (engine, CharacterTokenizer()))
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return run_dir, data, engine


def test_command_writes_results_completions_table_and_picture(trained_run, tmp_path, capsys):
    run_dir, data, engine = trained_run
    words = ["--benchmarks", str(data), "--samples", "4", "--k", "1", "2", "--reward", "exact", "--limit", "6"]
    copy = tmp_path / "copy.json"
    assert evaluate_command.main([str(run_dir), *words, "--json", str(copy), "--quiet"]) == 0
    out = run_dir / "evaluation"
    names = {path.name for path in out.iterdir()}
    assert names >= {"results.json", "table.md", "results.png"}
    document = json.loads((out / "results.json").read_text())
    assert document == json.loads(copy.read_text())
    (benchmark,) = document["benchmarks"].values()
    assert benchmark["problems"] == 6
    assert set(benchmark["pass_at_1"]) == {"value", "low", "high", "problems"}
    assert benchmark["reward"] == "exact"
    assert document["protocol"]["max_tokens"] == 8
    assert {"versions", "machine", "commit", "model"} <= set(document)
    printed = capsys.readouterr().out
    assert "pass@2" in printed
    assert str(out / "results.json") in printed
    assert engine.closed
    calls = len(engine.calls)
    assert evaluate_command.main([str(run_dir), *words, "--quiet"]) == 0
    assert len(engine.calls) == calls


def test_a_benchmark_that_nobody_judges_costs_the_others_nothing(trained_run, tmp_path):
    run_dir, data, engine = trained_run
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({"text": row["prompt"], "gold": None}) + "\n" for row in rows()))
    words = ["--samples", "0", "--reward", "exact", "--quiet", "--benchmarks"]
    with pytest.raises(ConfigError, match="prompt_column"):
        evaluate_command.main([str(run_dir), *words, str(other)])
    stored = {"kind": "llm", "dataset": str(other), "prompt_column": "text", "answer_column": "gold"}
    (run_dir / "config.json").write_text(json.dumps(stored))
    with pytest.raises(NoVerdicts, match=r"other.jsonl: .*'exact' had no verdict on 12 of 12.*kept in"):
        evaluate_command.main([str(run_dir), *words, str(other), str(data)])
    (benchmark,) = json.loads((run_dir / "evaluation" / "results.json").read_text())["benchmarks"].values()
    assert benchmark["greedy_accuracy"]["value"] == 0.5
    calls = len(engine.calls)
    given = ["--prompt-column", "text", "--answer-column", "text"]
    evaluate_command.main([str(run_dir), *words, str(other), *given])
    assert len(engine.calls) == calls


def test_what_does_not_fit_the_context_is_said_with_the_length_of_the_prompt():
    evaluate_command._check_context(128, 28, 100)
    evaluate_command._check_context(None, 28, 100)
    with pytest.raises(ConfigError, match=r"max_tokens=101 .* at most 100: .*context is 128 tokens.*prompt has 28"):
        evaluate_command._check_context(128, 28, 101)
    with pytest.raises(ConfigError, match=r"benchmarks='<a prompt of 128 tokens>'.*context is 128 tokens"):
        evaluate_command._check_context(128, 128, 1)


def test_a_reward_that_does_not_fit_the_columns_loads_no_model(trained_run, tmp_path):
    run_dir, _, engine = trained_run
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"prompt": "1+1="}\n')
    with pytest.raises(RewardError, match=r"'exact' does not fit .*it needs answer"):
        evaluate_command.main([str(run_dir), "--benchmarks", str(bare), "--reward", "exact"])
    assert not engine.calls


def test_retrained_weights_are_not_mixed_with_older_answers(trained_run):
    run_dir, data, engine = trained_run
    words = [str(run_dir), "--benchmarks", str(data), "--samples", "1", "--reward", "exact", "--quiet"]
    assert evaluate_command.main(words) == 0
    calls = len(engine.calls)
    (run_dir / "model" / "model.safetensors").write_bytes(b"updated")
    with pytest.raises(RunDirectoryError, match=r"other settings.*weights"):
        evaluate_command.main(words)
    assert len(engine.calls) == calls


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--samples", "4", "--k", "8"], "k=8"),
        (["--limit", "0"], "limit=0"),
        (["--benchmarks", "aime1924"], "aime1924"),
        (["--reward", "vibes"], "vibes"),
        (["--temperature", "0"], "temperature=0"),
        (["--prompt-template", "no place"], "prompt_template"),
        (["--json", "/nonexistent/x.json"], "json="),
    ],
)
def test_bad_arguments_load_no_model(trained_run, monkeypatch, words, said):
    run_dir, data, _ = trained_run
    monkeypatch.setattr(evaluate_command, "_load", lambda *arguments: pytest.fail("a model was loaded"))
    arguments = words if "--benchmarks" in words else ["--benchmarks", str(data), "--reward", "exact", *words]
    with pytest.raises(ConfigError, match=said):
        evaluate_command.main([str(run_dir), *arguments])


def test_models_are_told_apart(tmp_path, trained_run):
    run_dir, _, _ = trained_run
    found = find_model(str(run_dir))
    assert (found.name, found.source, found.run_dir) == ("run", str(run_dir / "model"), run_dir)
    assert find_model(str(run_dir / "model")).run_config == {}
    assert find_model("Qwen/Qwen2-0.5B").source == "Qwen/Qwen2-0.5B"
    assert find_model("arithmetic").name == "arithmetic"
    assert find_model("reasoning-gym:gcd,max_value=60").source == "reasoning-gym:gcd,max_value=60"


@pytest.mark.parametrize(
    ("files", "argument", "said"),
    [
        ({"config.json": '{"kind": "llm"}'}, "", "no trained model yet.*--resume"),
        ({"config.json": '{"env": "Hopper-v5"}'}, "", "r2vpo control evaluate"),
        ({"config.json": "{}"}, "", "says neither"),
        ({"config.json": "{"}, "", "damaged"),
        ({}, "", r"no config\.json"),
        ({}, "/typo", "does not exist"),
    ],
)
def test_what_is_no_model_is_explained(tmp_path, files, argument, said):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises((ConfigError, RunDirectoryError), match=said):
        find_model(f"{tmp_path}{argument}")


def test_fingerprint_follows_content_and_not_place(tmp_path):
    for name, weights in (("a", b"x" * 300_000), ("b", b"x" * 300_000), ("c", b"x" * 299_999 + b"y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    prints = [weights_fingerprint(tmp_path / name) for name in "abc"]
    assert prints[0] == prints[1] != prints[2]
    assert weights_fingerprint(tmp_path) is None


def test_defaults_come_from_the_run_and_give_way_to_arguments(trained_run):
    model = find_model(str(trained_run[0]))
    assert make_protocol(EvaluateCommand(model="", samples=4), model).k == (1,)
    assert make_protocol(EvaluateCommand(model=""), model).k == (1, 8)
    assert make_protocol(EvaluateCommand(model="", max_tokens=99), model).max_tokens == 99
    assert make_protocol(EvaluateCommand(model=""), find_model("some/model")).max_tokens == 2048


def test_partial_credit_solves_no_problem_of_reasoning_gym():
    protocol = EvaluationProtocol()
    assert with_own_bar(protocol, "reasoning-gym:chain_sum").solved_above == 0.99
    assert with_own_bar(protocol, "gsm8k") == protocol


def test_each_benchmark_has_its_verifier():
    assert {name: default_reward(name) for name in ("arithmetic", "gsm8k", "aime2024", "reasoning-gym:chain_sum")} == {
        "arithmetic": "exact",
        "gsm8k": "math_verify",
        "aime2024": "math_verify",
        "reasoning-gym:chain_sum": "reasoning_gym",
    }


def test_help_needs_no_torch():
    code = "import sys\nfrom r2vpo.llm.evaluation.command import main\n"
    code += "try: main(['--help'])\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    started = time.perf_counter()
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "False"
    assert "--benchmarks" in printed
    assert time.perf_counter() - started < 10  # 1 s on an idle machine


def test_the_command_line_reaches_it(tmp_path, capsys):
    assert main(["llm", "evaluate", str(tmp_path)]) == 1
    assert "no config.json" in capsys.readouterr().err
