"""Continuous batching: the same tokens and log-probs as the plain engine, from each completion's own seed."""

import numpy as np
import pytest
import torch

from r2vpo.errors import ConfigError, RolloutError

pytest.importorskip("transformers", reason="needs the llm extra")

import transformers
from tiny_models import tiny_model, tiny_tokenizer

from r2vpo.llm.engines.base import Sampling
from r2vpo.llm.engines.hf import HFEngine
from r2vpo.llm.engines.hf_continuous import HFContinuousEngine

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [4], [5, 6, 7, 8, 9]]
pytestmark = pytest.mark.skipif(
    not hasattr(transformers, "ContinuousBatchingConfig"), reason="this transformers has no continuous batching"
)
SMALL = {"num_blocks": 64, "max_batch_tokens": 32}


@pytest.fixture(scope="module")
def model():
    return tiny_model(scale=0.2)


def assert_agree(first, second):
    assert [c.tokens.tolist() for c in first] == [c.tokens.tolist() for c in second]
    assert [c.finished for c in first] == [c.finished for c in second]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-4)


@pytest.mark.parametrize("sampling", [Sampling(12), Sampling(12, 0.6, 0.9), Sampling(12, 0.0)])
def test_samples_are_those_of_the_plain_engine(model, sampling):
    tokenizer = tiny_tokenizer()
    continuous = HFContinuousEngine(model, tokenizer, **SMALL)
    continuous.sync_weights(model, 4)
    completions = continuous.generate(PROMPTS, 4, sampling, range(16))
    assert_agree(completions, HFEngine(model, tokenizer).generate(PROMPTS, 4, sampling, range(16)))
    assert {c.weight_version for c in completions} == {4}


def test_requests_that_are_evicted_for_want_of_memory_come_out_the_same(model):
    tokenizer = tiny_tokenizer()
    crowded = HFContinuousEngine(model, tokenizer, num_blocks=6, page_size=8, max_batch_tokens=32)
    expected = HFEngine(model, tokenizer).generate(PROMPTS, 8, Sampling(24), range(32))
    assert_agree(crowded.generate(PROMPTS, 8, Sampling(24), range(32)), expected)


def test_the_model_is_left_as_it_was(model):
    model.train()
    attention = model.config._attn_implementation
    HFContinuousEngine(model, tiny_tokenizer(), **SMALL).generate(PROMPTS, 1, Sampling(4), range(4))
    assert all(module.training for module in model.modules())
    assert model.config._attn_implementation == attention
    model(input_ids=torch.tensor(PROMPTS[:1])).logits.sum().backward()
    model.zero_grad()
    model.eval()


def test_logits_that_are_not_finite_stop_the_run():
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(RolloutError, match="not finite in 4 of 4"):
        HFContinuousEngine(model, tiny_tokenizer(), **SMALL).generate(PROMPTS, 1, Sampling(3), range(4))


def test_a_closed_engine_says_so_and_a_long_prompt_is_refused(model):
    engine = HFContinuousEngine(model, tiny_tokenizer(), **SMALL)
    with pytest.raises(ConfigError, match="max_prompt_tokens=120"):
        engine.generate([[4] * 120], 1, Sampling(10), [0])
    assert engine.generate([], 4, Sampling(3), []) == []
    engine.close()
    with pytest.raises(ConfigError, match="closed"):
        engine.generate(PROMPTS, 1, Sampling(3), range(4))
