"""The benchmarks do what they say: equal work on both sides, turns, the layout of the result, honest rooflines."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from tiny_models import random_batch, tiny_model

from r2vpo import cli
from r2vpo.errors import ConfigError, R2VPOError
from r2vpo.llm.bench import cases as bench_cases
from r2vpo.llm.bench import command as bench
from r2vpo.llm.bench.cases import Pair, make_pairs, summarize
from r2vpo.llm.bench.device import ModelCost, Roofline, Subject, generation_case, measure_roofline, training_case
from r2vpo.llm.bench.engines import measure_engine
from r2vpo.llm.bench.process import Contestant, contest
from r2vpo.llm.bench.trainers import measure_trainer
from r2vpo.llm.bench.workload import Workload, make_model, make_rows, make_tokenizer
from r2vpo.llm.models.tiny_tokenizer import EOS_ID

ROOT = Path(__file__).resolve().parents[3]
SMALL = Workload(
    hidden_size=32, num_layers=1, num_heads=1, prompts=4, group_size=4, new_tokens=5, steps=2, iterations=2
)
CONTRACT = {"name", "ours", "peer", "unit", "ratio", "ratio_min", "ratio_max", "runs"}
PHASES = {"generate", "verify", "train", "sync"}


class OwnTurns:
    """No other side: every turn may start at once."""

    def __init__(self):
        self.figures = []

    def start(self):
        pass

    def finish(self, figures):
        self.figures.append(figures)


def test_model_gives_the_end_of_sequence_no_probability_at_all():
    model, tokenizer = make_model(Workload()), make_tokenizer()
    tokens = torch.tensor(tokenizer([row["prompt"] for row in make_rows(Workload())[:8]])["input_ids"])
    probabilities = model(tokens).logits.softmax(-1)
    assert (probabilities[..., EOS_ID] == 0).all()
    others = torch.arange(probabilities.shape[-1]) != EOS_ID
    assert (probabilities[..., others] > 0.01).all()


@pytest.mark.parametrize("who", ["ours", "trl"])
def test_both_trainers_do_the_same_work_in_turns(who):
    if who == "trl":
        pytest.importorskip("trl")
        pytest.importorskip("datasets")
    turns = OwnTurns()
    # It raises where an iteration generates other than 16 completions of 5 tokens.
    whole = measure_trainer(who, SMALL, turns)
    assert len(turns.figures) == SMALL.iterations
    assert whole["peak_mib"] >= whole["start_mib"] > 0
    for figures in turns.figures:
        assert set(figures["seconds"]) == PHASES
        assert sum(figures["seconds"].values()) == pytest.approx(SMALL.completions / figures["samples_per_second"])
        assert figures["seconds"]["train"] > 0
        assert figures["seconds"]["generate"] > 0


def test_work_that_was_not_done_is_an_error(monkeypatch):
    from r2vpo.llm.bench import workload as bench_workload

    monkeypatch.setattr(bench_workload, "never_end", lambda *_: None)
    with pytest.raises(R2VPOError, match="tokens"):
        measure_trainer("ours", replace(SMALL, new_tokens=40), OwnTurns())


@pytest.mark.parametrize("who", ["hf", "generate"])
def test_engines_generate_as_many_tokens_as_asked_for(who):
    turns = OwnTurns()
    assert measure_engine(who, SMALL, turns)["peak_mib"] > 0
    assert len(turns.figures) == SMALL.iterations
    assert all(figures["tokens_per_second"] > 0 for figures in turns.figures)


def test_processes_take_turns_and_report():
    sizes = {"passes": 2, "tokens": 16, "vocabulary": 64, "hidden": 8}
    tasks = [{"measure": bench_cases.LOG_PROBS, "who": who, **sizes} for who in ("ours", "naive")]
    sides = contest(*tasks, turns=2)
    assert [len(turns) for turns, _ in sides] == [2, 2]
    assert all(turn["seconds"] > 0 for turns, _ in sides for turn in turns)
    assert all("mib" in whole for _, whole in sides)


def test_process_waits_after_its_last_turn_while_the_other_one_may_still_work():
    side = Contestant(
        {"measure": bench_cases.LOG_PROBS, "who": "ours", "passes": 1, "tokens": 16, "vocabulary": 64, "hidden": 8}
    )
    try:
        side.wait_until_ready()
        side.take_turn(first=True)
        time.sleep(2.0)
        assert side._process.poll() is None
        assert "mib" in side.result()
        assert side._process.poll() == 0
    finally:
        side.stop()


def test_process_that_fails_is_an_error_with_its_reason():
    task = {"measure": bench_cases.LOG_PROBS, "who": "nobody", "passes": 1, "tokens": 1, "vocabulary": 8, "hidden": 8}
    with pytest.raises(R2VPOError, match="'ours' or 'naive'"):
        contest(task, task, turns=1)


PAIR = Pair("name", {"who": "ours"}, {"who": "trl"}, "TRL", 2, {"speed": "samples/s"}, {"peak_mib": "MiB"})
REPEATS = [
    [
        ([{"speed": 4.0, "seconds": {"train": 1.0}}, {"speed": 6.0, "seconds": {"train": 3.0}}], {"peak_mib": 10.0}),
        ([{"speed": 2.0, "seconds": {"train": 2.0}}, {"speed": 2.0, "seconds": {"train": 2.0}}], {"peak_mib": 40.0}),
    ]
]


def test_summary_takes_ratios_turn_by_turn():
    speed, memory = summarize(PAIR, REPEATS)
    assert set(speed) >= CONTRACT
    assert (speed["ours"], speed["peer"]) == (5.0, 2.0)
    assert (speed["ratio"], speed["ratio_min"], speed["ratio_max"]) == (2.5, 2.0, 3.0)
    assert [run["ratio"] for run in speed["runs"]] == [2.0, 3.0]
    assert speed["seconds_per_iteration"] == {"ours": {"train": 2.0}, "peer": {"train": 2.0}}
    assert (memory["ratio"], len(memory["runs"])) == (0.25, 1)


def test_command_writes_the_contract_and_prints_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "make_pairs", lambda case, turns, workload: [replace(PAIR, name=case)])
    monkeypatch.setattr(bench, "contest", lambda ours, peer, turns: REPEATS[0])
    path = tmp_path / "new" / "speed.json"
    words = ["bench", "llm", "--cases", "trl", "engines", "--repeats", "3", "--turns", "2", "--json", str(path)]
    assert cli.main(words) == 0
    document = json.loads(path.read_text())
    assert {"command", "cases", "versions", "machine", "commit"} <= set(document)
    assert [case["name"] for case in document["cases"]] == ["trl", "trl", "engines", "engines"]
    assert all(set(case) >= CONTRACT for case in document["cases"])
    assert len(document["cases"][0]["runs"]) == 6
    assert "2.50 times (2.00 to 3.00)" in capsys.readouterr().out


def test_interruption_keeps_the_cases_that_are_done(tmp_path, monkeypatch):
    answers = [REPEATS[0]]

    def interrupted(ours, peer, turns):
        if not answers:
            raise KeyboardInterrupt
        return answers.pop()

    monkeypatch.setattr(bench, "make_pairs", lambda case, turns, workload: [replace(PAIR, name=case)])
    monkeypatch.setattr(bench, "contest", interrupted)
    path = tmp_path / "speed.json"
    with pytest.raises(KeyboardInterrupt):
        bench.main(["--cases", "trl", "engines", "--repeats", "1", "--json", str(path)])
    assert [case["name"] for case in json.loads(path.read_text())["cases"]] == ["trl", "trl"]


@pytest.mark.parametrize("field", ["repeats", "turns"])
def test_bad_numbers_are_refused(field):
    with pytest.raises(ConfigError, match=f"{field}=0"):
        bench.main([f"--{field}", "0"])


def test_missing_peer_is_named(monkeypatch):
    monkeypatch.setattr(bench_cases.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install trl"):
        make_pairs("trl", 1, Workload())


def test_both_sides_of_every_pair_get_the_same_work():
    cases = [case for case in bench_cases.CASES if "trl" not in case or importlib.util.find_spec("trl")]
    pairs = [pair for case in cases for pair in make_pairs(case, 3, Workload())]
    for pair in pairs:
        ours, peer = ({name: value for name, value in task.items() if name != "who"} for task in (pair.ours, pair.peer))
        assert ours == peer
        assert pair.turns == 3 == ours.get("passes", ours.get("workload", {}).get("iterations"))


def test_the_process_that_measures_stays_small():
    code = "import sys, r2vpo.llm.bench.command; print('torch' in sys.modules, 'numpy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("tied", [False, True])
def test_counted_arithmetic_is_what_torch_counts(tied):
    from torch.utils.flop_counter import FlopCounterMode

    length = 24
    model = tiny_model(tied, attn_implementation="eager")
    cost = ModelCost.of(model)
    tokens = random_batch([(1, length - 1)])["input_ids"]
    with FlopCounterMode(display=False) as counter:
        model(tokens).logits.sum().backward()
    # Eager attention makes the masked half of the scores too; no gradient flows to the tokens.
    masked_half = 3 * 2 * cost.layers * cost.attention_width * length**2
    expected = cost.training_flops(length, length) + masked_half
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.03)
    assert cost.parameters == sum(p.numel() for p in model.parameters())


def test_least_seconds_of_generation_by_hand():
    cost = ModelCost(parameters=100, body=60, head=40, layers=2, attention_width=4, cache_width=8)
    slow_arithmetic, slow_memory = Roofline(1.0, 1e12), Roofline(1e12, 1.0)
    # Steps: two rows after 3 tokens, then one row after 4; attention is 4 x 2 x 4 a token of context.
    flops = 2 * (200 + 32 * 3) + (200 + 32 * 4)
    assert cost.generation_seconds(slow_arithmetic, 3, [1, 2], 4) == pytest.approx(flops)
    elements = (100 + 2 * 3 * 16) + (100 + 4 * 16)
    assert cost.generation_seconds(slow_memory, 3, [1, 2], 4) == pytest.approx(4 * elements)


def test_device_cases_on_the_cpu():
    roofline = measure_roofline("cpu", torch.float32, size=64, repeats=1)
    assert roofline.flops > 0
    assert roofline.bandwidth > 0
    subject = Subject(make_model(SMALL), EOS_ID, "cpu", "float32", {"float32": roofline})
    trained = training_case(subject, 32, rows=2, micro_batch_tokens=64, repeats=2)
    generated = generation_case(subject, "hf", 32, completions=3, repeats=2)
    for case in (trained, generated):
        assert set(case) >= CONTRACT
        assert case["peer"] > 0
        assert case["peak_mib"] > 0
        assert len(case["runs"]) == 2
    assert trained["flops_per_second"] > 0


@pytest.mark.slow
def test_gpu_script_runs_on_a_cpu(tmp_path):
    path = tmp_path / "gpu.json"
    words = ["--model", "random:tiny", "--device", "cpu", "--json", str(path)]
    words += ["--packages", "16", "--rows", "1", "--completions", "2", "--repeats", "1"]
    script = ROOT / "scripts" / "bench_llm.py"
    run = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    document = json.loads(path.read_text())
    names = [case["name"].split()[0] for case in document["cases"]]
    assert names[:3] == ["training,", "hf", "log-probs"]
    assert all(set(case) >= CONTRACT for case in document["cases"])
    assert set(document["roofline"]) == {"float32", "bfloat16"}
