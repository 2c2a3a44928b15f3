"""Tiny models of reasoning-gym's tasks: what they read as one token, what they learn from, and their names."""

import json

import pytest
import torch

from r2vpo.errors import ConfigError
from r2vpo.llm.config import resolve_config
from r2vpo.llm.models import tiny
from r2vpo.llm.models.loading import load_tokenizer, resolve_model
from r2vpo.llm.models.tiny import build_model, ensure_made
from r2vpo.llm.models.tiny_names import is_tiny
from r2vpo.llm.models.tiny_reasoning import TinyReasoningSettings, shared_phrases
from r2vpo.llm.models.tiny_tokenizer import ASCII, BOS_ID, make_tokenizer, vocabulary

pytest.importorskip("transformers", reason="needs transformers")
pytest.importorskip("reasoning_gym", reason="needs reasoning-gym")

GCD = "gcd,max_value=30"
SMALL = {
    "task": GCD,
    "hidden_size": 32,
    "num_layers": 1,
    "num_heads": 2,
    "intermediate_size": 64,
    "target_accuracy": 0.2,
    "learning_rate": 1e-2,
    "max_steps": 100,
}
"""Learned in a second: a fifth of the answers are 1 or 2."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("R2VPO_CACHE", str(tmp_path / "cache"))


def test_shared_phrases_do_not_overlap():
    assert shared_phrases(["add: 1 + 2 =", "add: 13 + 4 ="]) == ("add: 1", " =")
    assert shared_phrases(["aaa", "aaaa"]) == ("aaa",)
    assert shared_phrases(["1", "2"]) == ()


def test_the_instruction_is_one_token_and_comes_back_as_text():
    settings = TinyReasoningSettings(**SMALL)
    tokenizer = settings.tokenizer()
    before = "Find the Greatest Common Divisor (GCD) of these numbers: "
    after = ". Give only the GCD as your final answer."
    ids = tokenizer(f"{before}12, 18{after}")["input_ids"]
    first = len(vocabulary(ASCII))
    assert ids == [BOS_ID, first, *(vocabulary(ASCII)[c] for c in "12, 18"), first + 1]
    assert tokenizer.decode(ids, skip_special_tokens=True) == f"{before}12, 18{after}"
    assert build_model(settings).config.vocab_size == first + 2


def test_ascii_tokenizer_knows_every_newline():
    tokenizer = make_tokenizer(characters=ASCII)
    text = "a\n\nb (?:.*) \\n"
    assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_the_warm_start_learns_different_problems_and_none_that_it_validates_on():
    learned, validation = TinyReasoningSettings(**SMALL, examples=50).problems()
    prompts = [row["prompt"] for row in learned]
    assert len(set(prompts)) == len(prompts) == 50
    assert not {row["prompt"] for row in validation} & set(prompts)


def test_a_task_is_part_of_the_key_and_arithmetic_keeps_the_key_that_its_cached_model_has():
    keys = {TinyReasoningSettings(task=task).key for task in (GCD, "gcd", "lcm")}
    assert len(keys) == 3
    assert tiny.TinySettings().key == "tiny-arithmetic-b757c07a7255fc5c"


def test_a_made_model_answers_at_its_target_and_is_found_again(monkeypatch):
    directory = ensure_made(TinyReasoningSettings(**SMALL), quiet=True)
    about = json.loads((directory / "warm_start.json").read_text())
    assert about["settings"]["task"] == GCD
    assert about["validation_accuracy"] >= SMALL["target_accuracy"]
    monkeypatch.setattr(tiny, "train_tiny", lambda *_: pytest.fail("made again although it is in the cache"))
    assert ensure_made(TinyReasoningSettings(**SMALL), quiet=True) == directory


def test_same_settings_same_weights():
    def weights():
        settings = TinyReasoningSettings(**SMALL)
        model = build_model(settings)
        tiny.train_tiny(model, settings, quiet=True)
        return model.state_dict()

    first, again = weights(), weights()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_model_name_is_resolved_to_the_made_directory(monkeypatch):
    from r2vpo.llm.models import tiny_names

    directory = ensure_made(TinyReasoningSettings(**SMALL), quiet=True)
    asked = []
    monkeypatch.setattr(tiny, "ensure_made", lambda settings: asked.append(settings) or directory)
    assert resolve_model(f"reasoning-gym:{GCD}") == str(directory)
    assert asked == [TinyReasoningSettings(task=GCD)]
    assert load_tokenizer(f"reasoning-gym:{GCD}").bos_token_id == BOS_ID
    assert [tiny_names.is_tiny(name) for name in ("arithmetic", f"reasoning-gym:{GCD}", "gcd", "Qwen/Qwen2-0.5B")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("", "the name of a reasoning-gym task"),
        ("propositional_logic", "names an answer"),
        ("modulo_grid", "written in ASCII"),
        ("gcd,max_value=0", "settings the task accepts"),
        ("gcd,max_value", "setting=value"),
        ("gcd,max_value=30,max_value=40", "each once"),
    ],
)
def test_tasks_that_cannot_be_learned_are_refused(task, said):
    with pytest.raises(ConfigError, match=said):
        ensure_made(TinyReasoningSettings(task=task))


def test_presets_of_a_tiny_model_hold_for_every_task():
    name = f"reasoning-gym:{GCD}"
    config = resolve_config({"model": name, "dataset": name})
    assert (config.reward, config.solved_above, config.prompts_per_iteration) == (("reasoning_gym",), 0.99, 64)
    assert is_tiny(config.model)
    assert resolve_config({"model": "Qwen/Qwen2-0.5B", "dataset": name}).prompts_per_iteration == 128
    assert resolve_config({}).solved_above == 0.0
