"""Evaluation with an engine that obeys the protocol and knows sums: counts by hand, nothing lost, nothing invented."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from r2vpo.cli import main
from r2vpo.errors import ConfigError, RunDirectoryError
from r2vpo.llm.engines.base import Completion
from r2vpo.llm.evaluation import command as evaluate_command
from r2vpo.llm.evaluation.answering import answer_seeds
from r2vpo.llm.evaluation.command import EvaluateCommand, default_reward, make_protocol, with_own_bar
from r2vpo.llm.evaluation.completions import read_groups
from r2vpo.llm.evaluation.protocol import EvaluationProtocol
from r2vpo.llm.evaluation.run import evaluate
from r2vpo.llm.evaluation.tables import write_answers_table
from r2vpo.llm.evaluation.target import find_model, weights_fingerprint
from r2vpo.llm.rewards.exact import exact

EOS = 0


class CharacterTokenizer:
    """A token a character; 0 ends."""

    chat_template = None
    eos_token_id, eos_token = EOS, "<eos>"

    def __call__(self, text):
        return {"input_ids": [ord(c) for c in text]}

    def decode(self, tokens, skip_special_tokens=False):
        assert skip_special_tokens
        return "".join(chr(t) for t in tokens if t != EOS)


class AddingEngine:
    """Adds right with a chance that only the completion's own seed decides; always when greedy and the sum is even."""

    weight_version = 0

    def __init__(self, chance=0.5, die_after=None):
        self.chance, self.die_after = chance, die_after
        self.calls, self.seen = [], 0

    def generate(self, prompts, group_size, sampling, seeds):
        assert len(seeds) == len(prompts) * group_size
        self.calls.append((len(prompts), group_size, sampling))
        completions = []
        for i, seed in enumerate(seeds):
            text = "".join(map(chr, prompts[i // group_size]))
            total = sum(map(int, text.removesuffix("=").split("+")))
            right = total % 2 == 0 if sampling.temperature == 0 else np.random.default_rng(seed).random() < self.chance
            tokens = [ord(c) for c in str(total if right else total + 1)] + [EOS]
            cut = tokens[: sampling.max_tokens]
            log_probs = np.zeros(len(cut), np.float32)
            completions.append(Completion(np.array(cut, np.int32), log_probs, len(cut) == len(tokens), 0))
        self.seen += len(prompts)
        if self.die_after is not None and self.seen > self.die_after:
            raise KeyboardInterrupt
        return completions

    def sync_weights(self, model, version):
        raise AssertionError("an evaluation changes no weights")

    def close(self):
        self.closed = True


def rows(count=12):
    return [{"prompt": f"{i}+{2 * i + 3}=", "answer": str(3 * i + 3), "id": f"sum-{i}"} for i in range(count)]


PROTOCOL = EvaluationProtocol(samples=4, k=(1, 2, 4), max_tokens=8)


def run(engine=None, protocol=PROTOCOL, reward=exact, problems=None, **options):
    return evaluate(engine or AddingEngine(), CharacterTokenizer(), problems or rows(), reward, protocol, **options)


def lines_of(path):
    return [line for group in read_groups(path) for line in group]


def test_figures_are_those_of_the_completions_in_the_file(tmp_path):
    file = tmp_path / "completions.jsonl"
    result = run(output=file)
    lines = lines_of(file)
    assert len(lines) == 12 * 5
    sampled = np.array([line["reward"] for line in lines if line["sample"] is not None]).reshape(12, 4)
    assert 0 < sampled.mean() < 1
    assert result.pass_at_k[1].value == pytest.approx(sampled.mean())
    assert result.pass_at_k[4].value == pytest.approx((sampled.max(axis=1) > 0).mean())
    assert result.pass_at_k[1].low < result.pass_at_k[1].value < result.pass_at_k[1].high
    assert result.pass_at_k[1].value < result.pass_at_k[2].value < result.pass_at_k[4].value
    assert result.greedy_accuracy.value == 0.5  # sums 3, 6, 9, ... are even every other time
    assert (result.problems, result.samples, result.excluded, result.cut_off) == (12, 4, 0, 0.0)
    assert result.mean_tokens == np.mean([line["tokens"] for line in lines if line["sample"] is not None])
    assert lines[5] | {"completion": "", "reward": 0, "verdicts": {}, "generate_seconds": 0, "verify_seconds": 0} == {
        "index": 1,
        "id": "sum-1",
        "prompt": "1+5=",
        "answer": "6",
        "sample": 0,
        "completion": "",
        "reward": 0,
        "verdicts": {},
        "finished": True,
        "tokens": 2,
        "generate_seconds": 0,
        "verify_seconds": 0,
    }
    assert json.loads(json.dumps(result.as_dict()))["pass_at_2"]["problems"] == 12


def test_sampling_is_asked_for_as_the_protocol_says():
    engine = AddingEngine()
    run(engine, completions_at_once=30)
    sampled, greedy = engine.calls[0], engine.calls[1]
    assert sampled[:2] == (6, 4)
    assert (sampled[2].temperature, sampled[2].top_p, sampled[2].max_tokens) == (0.6, 0.95, 8)
    assert greedy[:2] == (6, 1)
    assert (greedy[2].temperature, greedy[2].top_p) == (0.0, 1.0)
    assert len(engine.calls) == 4


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_answers_do_not_depend_on_how_problems_are_batched(tmp_path, at_once):
    run(output=tmp_path / "a.jsonl")
    run(output=tmp_path / "b.jsonl", completions_at_once=at_once)
    texts = [[line["completion"] for line in lines_of(tmp_path / f"{name}.jsonl")] for name in "ab"]
    assert texts[0] == texts[1]


def test_seeds_are_distinct_and_a_longer_list_begins_alike():
    seeds = [seed for index in range(50) for seed in answer_seeds(3, index, 16)]
    assert len(set(seeds)) == 800
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert answer_seeds(3, 7, 16)[:4] == answer_seeds(3, 7, 4)
    assert answer_seeds(4, 7, 4) != answer_seeds(3, 7, 4)


def test_a_stopped_evaluation_does_only_what_is_missing(tmp_path):
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    expected = run(output=whole)
    with pytest.raises(KeyboardInterrupt):
        run(AddingEngine(die_after=10), output=stopped, completions_at_once=15)
    assert len(lines_of(stopped)) == 3 * 5
    with stopped.open(
        "a"
    ) as file:  # a kill in the middle of a write: a whole line of the fourth problem, and half a line
        file.write(json.dumps(lines_of(whole)[15]) + "\n" + '{"index": 3, "id')
    engine, progress = AddingEngine(), []
    result = run(engine, output=stopped, completions_at_once=15, on_progress=progress.append)
    assert sum(problems for problems, size, _ in engine.calls if size == 4) == 9
    assert [p.problems for p in progress] == [6, 9, 12]
    assert [line["completion"] for line in lines_of(stopped)] == [line["completion"] for line in lines_of(whole)]
    assert (result.pass_at_k, result.greedy_accuracy) == (expected.pass_at_k, expected.greedy_accuracy)
    again = AddingEngine()
    assert run(again, output=stopped).pass_at_k == expected.pass_at_k
    assert again.calls == []


def test_a_larger_limit_goes_on_and_a_smaller_one_counts_less(tmp_path):
    file = tmp_path / "completions.jsonl"
    run(output=file, problems=rows(4))
    engine = AddingEngine()
    assert run(engine, output=file, problems=rows(12)).pass_at_k == run().pass_at_k
    assert engine.calls[0][0] == 8
    assert run(output=file, problems=rows(4)).problems == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"temperature": 1.0}, "temperature 0.6 instead of 1.0"),
        ({"samples": 5}, "samples 4 instead of 5"),
        ({"seed": 1}, "seed 0 instead of 1"),
        ({"prompt_template": "Q: {prompt}"}, "prompt_template"),
    ],
)
def test_a_file_of_other_settings_is_refused(tmp_path, change, said):
    file = tmp_path / "completions.jsonl"
    run(output=file, identity={"model": "a"})
    before = file.read_bytes()
    values = {"samples": 4, "k": (1,), "max_tokens": 8} | change
    with pytest.raises(RunDirectoryError, match=f"other settings.*{said}"):
        run(protocol=EvaluationProtocol(**values), output=file, identity={"model": "a"})
    with pytest.raises(RunDirectoryError, match="model 'a' instead of 'b'"):
        run(output=file, identity={"model": "b"})
    assert file.read_bytes() == before


def test_k_and_the_bar_can_change_without_new_answers(tmp_path):
    file = tmp_path / "completions.jsonl"
    run(output=file)
    engine = AddingEngine()
    result = run(engine, EvaluationProtocol(samples=4, k=(3,), max_tokens=8, solved_above=1.0), output=file)
    assert (engine.calls, result.pass_at_k[3].value) == ([], 0.0)


def test_other_problems_under_the_same_name_are_refused(tmp_path):
    file = tmp_path / "completions.jsonl"
    run(output=file)
    with pytest.raises(RunDirectoryError, match=r"other problems.*prompt of problem 0"):
        run(output=file, problems=[{"prompt": "9+9=", "answer": "18"}])


@pytest.mark.parametrize("content", ["", "not json\n", "[1]\n", '{"index": 0}\n'])
def test_a_foreign_file_is_refused_and_an_empty_one_is_used(tmp_path, content):
    file = tmp_path / "completions.jsonl"
    file.write_text(content)
    if content:
        with pytest.raises(RunDirectoryError, match=str(file)):
            run(output=file)
        assert file.read_text() == content
    else:
        assert run(output=file).problems == 12


def undecided(prompts, completions, answer, **columns):
    """No verdict on the first problem, on one sample of the second, and on the greedy answer of the third."""
    verdicts = exact(prompts, completions, answer)
    return [None if i in {0, 1, 2, 3, 4, 5, 14} else verdict for i, verdict in enumerate(verdicts)]


def test_a_missing_verdict_is_excluded_and_counted_and_never_a_zero(tmp_path):
    file = tmp_path / "completions.jsonl"
    result = run(AddingEngine(chance=1.1), reward=undecided, output=file)
    assert result.excluded == 7
    assert result.excluded_by_function == {"undecided": 7}
    assert {k: (e.value, e.problems) for k, e in result.pass_at_k.items()} == {1: (1, 11), 2: (1, 11), 4: (1, 10)}
    assert result.greedy_accuracy.problems == 10
    assert [line["reward"] for line in lines_of(file)[4:7]] == [None, None, 1.0]


def test_minus_one_is_not_solved_and_named_rewards_are_added(tmp_path):
    def signed(prompts, completions, answer, **columns):
        return [2 * verdict - 1 for verdict in exact(prompts, completions, answer)]

    expected = run()
    assert run(reward=signed).pass_at_k == expected.pass_at_k
    both = run(reward=[("exact", exact), ("signed", signed)], output=tmp_path / "both.jsonl")
    assert both.pass_at_k == expected.pass_at_k
    assert {line["reward"] for line in lines_of(tmp_path / "both.jsonl")} == {-1.0, 2.0}


def test_answers_that_are_cut_are_counted():
    result = run(protocol=EvaluationProtocol(samples=2, k=(1,), max_tokens=2))
    assert 0.5 < result.cut_off < 1.0  # two digits and the end do not fit, one digit and the end do


def test_greedy_alone_and_samples_alone():
    greedy = run(protocol=EvaluationProtocol(samples=0, k=(), max_tokens=8))
    assert (greedy.pass_at_k, greedy.greedy_accuracy.value) == ({}, 0.5)
    sampled = run(protocol=EvaluationProtocol(samples=4, k=(1, 2, 4), max_tokens=8, greedy=False))
    assert sampled.greedy_accuracy is None
    assert sampled.pass_at_k == run().pass_at_k


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"samples": 4, "k": (8,)}, "k"),
        ({"k": (0,)}, "k"),
        ({"samples": -1}, "samples"),
        ({"samples": 0, "greedy": False}, "samples"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": -1}, "seed"),
    ],
)
def test_protocols_that_mean_nothing(settings, field):
    with pytest.raises(ConfigError) as caught:
        EvaluationProtocol(**settings)
    assert caught.value.field == field


def test_a_row_without_a_prompt_names_the_columns():
    with pytest.raises(ConfigError, match=r"prompt_column.*answer, question"):
        run(problems=[{"question": "1+1=", "answer": "2"}])


def test_table_shows_best_and_worst_with_mixed_problems_first(tmp_path):
    file = tmp_path / "completions.jsonl"
    problems = [{"prompt": "1+1=", "answer": "9", "id": "never"}, {"prompt": "1+5=", "answer": "6", "id": "some|times"}]
    run(output=file, problems=problems)
    text = write_answers_table({"sums": file}, tmp_path / "table.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert table[2].startswith("| some|times: 1+5=<br><br>**6** | 6 | 1 | 7 | 0 | 5 of 5 |".replace("some|", "some\\|"))
    assert "2 of 2 problems" in text


def test_long_answers_keep_their_end_and_cannot_break_the_table(tmp_path):
    class Rambling(AddingEngine):
        def generate(self, prompts, group_size, sampling, seeds):
            tokens = np.array([ord(c) for c in "a|b\n<script>" * 500 + "the end"], np.int32)
            return [Completion(tokens, np.zeros(len(tokens), np.float32), False, 0) for _ in seeds]

    file = tmp_path / "completions.jsonl"
    run(Rambling(), output=file, problems=rows(1))
    row = write_answers_table({"sums": file}, tmp_path / "table.md").read_text().splitlines()[-1]
    assert len(row) < 4000
    assert "the end | 0" in row
    assert "<script>" not in row
    assert row.replace("\\|", "").count("|") == 7


# The command.


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
