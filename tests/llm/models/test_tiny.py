"""The tiny model: its tokenizer, its warm start, and a cache that many processes may use at once."""

import json
import subprocess
import sys

import pytest
import torch

from r2vpo.errors import ConfigError
from r2vpo.llm.models import tiny, warm_start
from r2vpo.llm.models.tiny import ExpressionSettings, TinySettings, build_model, ensure_tiny_model, train_tiny
from r2vpo.llm.models.tiny_names import tiny_preset
from r2vpo.llm.models.tiny_tokenizer import BOS_ID, EOS_ID, PAD_ID, make_tokenizer, vocabulary
from r2vpo.llm.models.warm_start import IGNORED, Examples, greedy_accuracy
from r2vpo.runs.cache import cache_directory

transformers = pytest.importorskip("transformers", reason="needs transformers")

SMALL = {
    "hidden_size": 32,
    "num_layers": 1,
    "num_heads": 2,
    "intermediate_size": 64,
    "operands": 2,
    "highest": 9,
    "target_accuracy": 0.3,
    "learning_rate": 1e-2,
    "max_steps": 200,
}
"""A hundred problems, learned in a second."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("R2VPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_tokenizer_has_one_token_a_character_and_starts_with_bos():
    tokenizer = make_tokenizer()
    ids = tokenizer("3+15=")["input_ids"]
    assert ids == [BOS_ID, *(vocabulary()[c] for c in "3+15=")]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "3+15="
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (PAD_ID, BOS_ID, EOS_ID)


def test_tokenizer_round_trips_every_character():
    tokenizer = make_tokenizer()
    text = "0123456789+-*/=()., "
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert tokenizer.unk_token_id in tokenizer("3?")["input_ids"]


def test_labels_cover_the_answer_and_its_end():
    tokenizer = make_tokenizer()
    examples = Examples.of([{"prompt": "1+2=", "answer": "3"}, {"prompt": "9+9=", "answer": "18"}], tokenizer)
    digit = vocabulary()
    assert examples.tokens[0].tolist() == [BOS_ID, *(digit[c] for c in "1+2=3"), EOS_ID, PAD_ID]
    assert examples.labels[0].tolist() == [IGNORED] * 5 + [digit["3"], EOS_ID, IGNORED]
    assert examples.labels[1].tolist() == [IGNORED] * 5 + [digit["1"], digit["8"], EOS_ID]


def test_worked_steps_are_what_is_learned_where_a_row_has_them():
    tokenizer = make_tokenizer()
    examples = Examples.of([{"prompt": "1+2+3=", "answer": "6", "worked": "3+3=6"}], tokenizer)
    assert tokenizer.decode(examples.labels[0][examples.labels[0] != IGNORED]) == "3+3=6<eos>"


def test_the_model_of_expressions_learns_other_problems_than_it_validates_on_and_can_write_them():
    settings = ExpressionSettings(examples=50)
    learned, validation = settings.problems()
    assert len({row["prompt"] for row in learned}) == 50
    assert not {row["prompt"] for row in learned} & {row["prompt"] for row in validation}
    tokens = Examples.of(learned, settings.tokenizer()).tokens
    assert settings.tokenizer().unk_token_id not in tokens
    limits = tiny_preset("expressions")
    assert tokens.shape[1] < limits["max_prompt_tokens"] + limits["max_completion_tokens"]
    assert build_model(settings).num_parameters() < 5e6


def test_saved_model_loads_with_the_auto_classes_and_answers_greedily_as_measured():
    directory = ensure_tiny_model(quiet=True, **SMALL)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    rows = tiny.ArithmeticTask(SMALL["operands"], SMALL["highest"]).rows("train")
    assert model.config.model_type == "qwen2"
    assert model.generation_config.eos_token_id == model.config.eos_token_id == tokenizer.eos_token_id == EOS_ID
    generated = [
        model.generate(**tokenizer(row["prompt"], return_tensors="pt"), do_sample=False, max_new_tokens=4)[0]
        for row in rows
    ]
    answers = [tokenizer.decode(g, skip_special_tokens=True) for g in generated]
    right = [a == r["prompt"] + r["answer"] for a, r in zip(answers, rows, strict=True)]
    ended = [int(g[-1]) == EOS_ID for g in generated]
    measured = greedy_accuracy(model, Examples.of(rows, tokenizer))
    assert sum(r and e for r, e in zip(right, ended, strict=True)) / len(rows) == pytest.approx(measured)
    assert measured > 0


def test_same_seed_same_weights_other_seed_other_weights():
    def weights(seed):
        settings = TinySettings(**{**SMALL, "seed": seed})
        model = build_model(settings)
        torch.rand(seed + 1)  # the caller's random state must not matter
        train_tiny(model, settings, quiet=True)
        return model.state_dict()

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_making_a_model_leaves_the_random_state_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    ensure_tiny_model(quiet=True, **SMALL)
    assert torch.equal(torch.rand(3), expected)


def test_only_the_first_examples_of_the_seed_are_learned(monkeypatch):
    learned = []

    def record(model, train, validation, settings, seed, quiet):
        learned.append([[token for token in text if token != PAD_ID] for text in train.tokens.tolist()])

    monkeypatch.setattr(warm_start, "warm_start", record)
    model = build_model(TinySettings(**SMALL))
    for settings in ({"examples": 5}, {"examples": 5, "seed": 1}, {}):
        train_tiny(model, TinySettings(**{**SMALL, **settings}))
    few, other, all_of_them = learned
    assert (len(few), len(other), len(all_of_them)) == (5, 5, 88)
    assert few != other
    assert few == all_of_them[:5]


def test_warm_start_stops_at_the_target_and_gives_up_in_time():
    settings = TinySettings(**{**SMALL, "target_accuracy": 0.99, "max_steps": 10})
    with pytest.raises(ConfigError, match="max_steps=10") as error:
        train_tiny(build_model(settings), settings, quiet=True)
    assert error.value.field == "target_accuracy"


def test_a_model_is_made_once_and_again_for_other_settings(monkeypatch):
    first = ensure_tiny_model(quiet=True, **SMALL)
    about = json.loads((first / "warm_start.json").read_text())
    assert about["validation_accuracy"] >= SMALL["target_accuracy"]
    assert ensure_tiny_model(quiet=True, **{**SMALL, "seed": 1}) != first
    monkeypatch.setattr(tiny, "train_tiny", lambda *_: pytest.fail("made again although it is in the cache"))
    assert ensure_tiny_model(quiet=True, **SMALL) == first


def test_format_version_is_part_of_the_key(monkeypatch):
    key = TinySettings().key
    monkeypatch.setattr(tiny, "FORMAT_VERSION", tiny.FORMAT_VERSION + 1)
    assert TinySettings().key != key


def test_an_incomplete_directory_is_replaced():
    directory = ensure_tiny_model(quiet=True, **SMALL)
    (directory / "model.safetensors").unlink()
    assert ensure_tiny_model(quiet=True, **SMALL) == directory
    assert (directory / "model.safetensors").is_file()


def test_a_failure_leaves_nothing_that_looks_like_a_model(cache, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny, "train_tiny", fail)
    with pytest.raises(KeyboardInterrupt):
        ensure_tiny_model(quiet=True, **SMALL)
    assert [p for p in cache.iterdir() if p.is_dir()] == []


def test_processes_that_ask_at_once_get_one_model(cache):
    code = (
        "import sys, torch; torch.set_num_threads(1); from r2vpo.llm.models import tiny; made = tiny.train_tiny\n"
        "def train(*a): print('made', flush=True); return made(*a)\n"
        f"tiny.train_tiny = train; print(tiny.ensure_tiny_model(quiet=True, **{SMALL!r}))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum("made" in output for output in outputs) == 1
    assert len({output.split()[-1] for output in outputs}) == 1
    assert len([p for p in cache.iterdir() if p.is_dir()]) == 1


def test_cache_directory_follows_the_environment(tmp_path, monkeypatch):
    assert cache_directory() == tmp_path / "cache"
    monkeypatch.delenv("R2VPO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "r2vpo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "r2vpo"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", 30),
        ("num_layers", 0),
        ("target_accuracy", 1.0),
        ("examples", 0),
        ("operands", 1),
        ("depth", 2),
    ],
)
def test_bad_settings_name_the_field(field, value):
    with pytest.raises(ConfigError) as error:
        ensure_tiny_model(quiet=True, **{field: value})
    assert error.value.field == field


def test_a_task_too_small_to_be_split_is_refused():
    with pytest.raises(ConfigError) as error:
        ensure_tiny_model(quiet=True, **{**SMALL, "highest": 1})
    assert error.value.field == "operands"
