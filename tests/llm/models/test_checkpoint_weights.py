"""Weights by their checkpoint names, adapters merged in, as vLLM and save_pretrained get them."""

import pytest
import torch

pytest.importorskip("transformers", reason="needs the llm extra")
pytest.importorskip("peft", reason="needs peft")

from tiny_models import lora, tiny_model

from r2vpo.errors import ConfigError
from r2vpo.llm.models.loading import checkpoint_weights


def test_weights_of_a_plain_model_include_a_tied_head():
    for tied in (True, False):
        model = tiny_model(tied)
        weights = dict(checkpoint_weights(model))
        assert weights.keys() == {*model.state_dict(), "lm_head.weight"}
        assert torch.equal(weights["lm_head.weight"], model.lm_head.weight)
        assert not any(weight.requires_grad for weight in weights.values())


def test_merged_lora_weights_make_the_same_model_and_leave_the_base_alone():
    adapted = lora(tiny_model(tied=True), scale=0.3, target_modules=["q_proj", "down_proj"])
    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    plain = tiny_model(tied=True, seed=3)
    plain.load_state_dict(dict(checkpoint_weights(adapted)))
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(plain(ids).logits, adapted(ids).logits, atol=1e-5, rtol=1e-5)
    with adapted.disable_adapter():
        assert (plain(ids).logits - adapted(ids).logits).abs().max() > 1e-2
    assert all(torch.equal(value, before[name]) for name, value in adapted.state_dict().items())


def test_layers_that_lora_saves_whole_are_sent_as_trained():
    adapted = lora(tiny_model(tied=False), target_modules=["q_proj"], modules_to_save=["lm_head"])
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    plain = tiny_model(tied=False, seed=3)
    plain.load_state_dict(dict(checkpoint_weights(adapted)))
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(plain(ids).logits, adapted(ids).logits, atol=1e-5, rtol=1e-5)


def test_adapters_that_are_not_plain_lora_are_refused():
    adapted = lora(tiny_model(tied=True), target_modules=["q_proj"], use_dora=True)
    with pytest.raises(ConfigError, match="plain LoRA"):
        checkpoint_weights(adapted)
