"""The Hugging Face engine: what it samples, with which probabilities, and that nothing else in a batch matters."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from r2vpo.errors import ConfigError, RolloutError

pytest.importorskip("transformers", reason="needs the llm extra")

from r2vpo.llm.engines.base import RolloutEngine, Sampling
from r2vpo.llm.engines.hf import HFEngine, draw, memory_limit, sampling_log_probs, uniform_numbers

EOS = 1
TOKENIZER = SimpleNamespace(eos_token_id=EOS)
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [4], [5, 6, 7, 8, 9]]


def tiny_model(vocab_size=16, eos_token_id=EOS, **overrides):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    settings = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": None,
        "eos_token_id": eos_token_id,
        "pad_token_id": 0,
        "initializer_range": 0.4,
        **overrides,
    }
    return Qwen2ForCausalLM(Qwen2Config(**settings)).eval()


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def engine(model):
    return HFEngine(model, TOKENIZER)


def reference_log_probs(model, prompt, tokens, sampling):
    """Of every sampled token, from one forward pass over the whole sequence without a cache."""
    ids = torch.tensor([[*prompt, *tokens.tolist()]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    return sampling_log_probs(logits, sampling).gather(-1, ids[0, len(prompt) :, None])[:, 0].numpy()


def assert_same_tokens(first, second):
    assert [c.tokens.tolist() for c in first] == [c.tokens.tolist() for c in second]


def test_greedy_is_that_of_generate(model, engine):
    completions = engine.generate(PROMPTS, 2, Sampling(12, temperature=0.0), range(8))
    for i, prompt in enumerate(PROMPTS):
        expected = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=12, pad_token_id=0)
        for completion in completions[2 * i : 2 * i + 2]:
            assert completion.tokens.tolist() == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize(
    "sampling", [Sampling(10), Sampling(10, temperature=0.6), Sampling(10, 1.3, top_p=0.7), Sampling(10, 0.0)]
)
@pytest.mark.parametrize("prompts", [PROMPTS, [[5, 6], [7, 8]]], ids=["padded", "equal lengths"])
def test_log_probs_are_those_of_a_full_forward_pass(model, engine, prompts, sampling):
    completions = engine.generate(prompts, 8, sampling, range(8 * len(prompts)))
    assert any(len(c.tokens) < 10 for c in completions) or sampling.temperature == 0  # some rows left the batch
    for i, completion in enumerate(completions):
        expected = reference_log_probs(model, prompts[i // 8], completion.tokens, sampling)
        np.testing.assert_allclose(completion.log_probs, expected, atol=5e-5)
        assert completion.log_probs.dtype == np.float32
        assert completion.tokens.dtype == np.int32


def test_a_completion_depends_on_its_seed_and_prompt_alone(model, engine):
    sampling, seeds = Sampling(10), [101 + 7 * i for i in range(16)]
    together = engine.generate(PROMPTS, 4, sampling, seeds)
    alone = [engine.generate([PROMPTS[i // 4]], 1, sampling, [seed])[0] for i, seed in enumerate(seeds)]
    assert_same_tokens(together, alone)
    backwards = engine.generate(PROMPTS[::-1], 4, sampling, seeds[::-1])
    assert_same_tokens(together, backwards[::-1])
    for max_batch in (1, 3, 5, 8):
        assert_same_tokens(together, HFEngine(model, TOKENIZER, max_batch).generate(PROMPTS, 4, sampling, seeds))
    other = engine.generate(PROMPTS, 4, sampling, [seed + 1 for seed in seeds])
    assert sum(a.tokens.tolist() != b.tokens.tolist() for a, b in zip(together, other, strict=True)) >= 8


@pytest.mark.parametrize("sampling", [Sampling(2), Sampling(2, 0.5), Sampling(2, 1.0, 0.8)])
def test_samples_follow_the_distribution_of_the_model(sampling):
    model, prompt, count = tiny_model(vocab_size=5, eos_token_id=4, initializer_range=0.25), [2, 3], 4000
    completions = HFEngine(model, SimpleNamespace(eos_token_id=4)).generate([prompt], count, sampling, range(count))
    expected = {}
    with torch.no_grad():
        first = sampling_log_probs(model(input_ids=torch.tensor([prompt])).logits[:, -1], sampling).exp()[0].tolist()
        for a in range(5):
            second = sampling_log_probs(model(input_ids=torch.tensor([[*prompt, a]])).logits[:, -1], sampling).exp()[0]
            expected |= {(a,): first[4]} if a == 4 else {(a, b): first[a] * second[b].item() for b in range(5)}
    counts = dict.fromkeys(expected, 0)
    for completion in completions:
        counts[tuple(completion.tokens.tolist())] += 1
    assert all(counts[pair] == 0 for pair, p in expected.items() if p == 0)
    common = [pair for pair, p in expected.items() if p * count > 5]
    observed = [*(counts[pair] for pair in common), count - sum(counts[pair] for pair in common)]
    probability = [expected[pair] for pair in common]
    probability.append(max(1 - sum(probability), 0.0))
    if probability[-1] * count < 1:
        assert observed[-1] <= 5
        observed, probability = observed[:-1], [p / sum(probability[:-1]) for p in probability[:-1]]
    assert len(observed) > 5
    assert stats.chisquare(observed, np.array(probability) * sum(observed)).pvalue > 1e-3


def test_end_of_sequence_is_included_and_ends_the_completion(engine):
    completions = engine.generate(PROMPTS, 16, Sampling(8), range(64))
    for completion in completions:
        assert completion.finished == (completion.tokens[-1] == EOS)
        assert EOS not in completion.tokens[:-1]
        assert completion.finished or len(completion.tokens) == 8
        assert len(completion.log_probs) == len(completion.tokens)
    assert len({c.finished for c in completions}) == 2


def test_any_of_several_end_tokens_ends_a_completion():
    model = tiny_model(eos_token_id=[3, 7])
    engine = HFEngine(model, TOKENIZER)
    assert engine.eos_token_ids == [1, 3, 7]
    last = {int(c.tokens[-1]) for c in engine.generate(PROMPTS, 32, Sampling(20), range(128)) if c.finished}
    assert last == {1, 3, 7}


def test_weights_are_live_and_their_version_is_stamped():
    model = tiny_model()
    engine: RolloutEngine = HFEngine(model, TOKENIZER)
    before = engine.generate(PROMPTS, 2, Sampling(6), range(8))
    with torch.no_grad():
        model.lm_head.weight.mul_(-1.0)
    engine.sync_weights(model, 3)
    after = engine.generate(PROMPTS, 2, Sampling(6), range(8))
    assert {c.weight_version for c in before} == {0}
    assert {c.weight_version for c in after} == {3}
    for i, completion in enumerate(after):
        expected = reference_log_probs(model, PROMPTS[i // 2], completion.tokens, Sampling(6))
        np.testing.assert_allclose(completion.log_probs, expected, atol=5e-5)
    assert [c.tokens.tolist() for c in before] != [c.tokens.tolist() for c in after]


def test_training_mode_and_gradient_checkpointing_neither_disturb_nor_are_disturbed():
    model = tiny_model(attention_dropout=0.5)
    expected = HFEngine(model, TOKENIZER).generate(PROMPTS, 4, Sampling(8), range(16))
    model.train()
    model.gradient_checkpointing_enable()
    model.config.use_cache = False
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    assert_same_tokens(HFEngine(model, TOKENIZER).generate(PROMPTS, 4, Sampling(8), range(16)), expected)
    assert [module.training for module in model.modules()] == modes
    assert model.is_gradient_checkpointing
    assert all(p.grad is None for p in model.parameters())
    model(input_ids=torch.tensor(PROMPTS[:1])).logits.sum().backward()  # nothing in the model is an inference tensor


def test_lora_adapters_count():
    peft = pytest.importorskip("peft", reason="needs peft")
    model = peft.get_peft_model(tiny_model(), peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=4))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    for i, completion in enumerate(HFEngine(model, TOKENIZER).generate(PROMPTS, 2, Sampling(6), range(8))):
        expected = reference_log_probs(model, PROMPTS[i // 2], completion.tokens, Sampling(6))
        np.testing.assert_allclose(completion.log_probs, expected, atol=5e-5)
        with model.disable_adapter():
            without = reference_log_probs(model, PROMPTS[i // 2], completion.tokens, Sampling(6))
        assert np.abs(completion.log_probs - without).max() > 1e-3


def test_a_prompt_is_read_once_for_its_group_and_finished_rows_leave(model, engine):
    shapes = []
    hook = model.model.embed_tokens.register_forward_hook(lambda module, args, output: shapes.append(args[0].shape))
    engine.generate(PROMPTS[:2], 32, Sampling(24), range(64))
    hook.remove()
    assert shapes[0] == (2, 6)
    batches = [shape[0] for shape in shapes[1:]]
    assert batches[0] <= 64
    assert batches == sorted(batches, reverse=True)
    assert batches[-1] < 32
    assert all(shape[1] == 1 for shape in shapes[1:])


def test_logits_that_are_not_finite_stop_the_run():
    model = tiny_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[9] = math.nan  # only prompts that contain token 9, and only at the start
        model.lm_head.weight = torch.nn.Parameter(torch.randn(16, 32))
    with pytest.raises(RolloutError, match=r"not finite in 6 of 12 completions \(token 1"):
        HFEngine(model, TOKENIZER).generate([[9, 4], [4, 5], [5, 9], [6, 7]], 3, Sampling(1), range(12))


@pytest.mark.parametrize(
    ("prompts", "group_size", "sampling", "num_seeds", "field", "said"),
    [
        ([[4] * 60], 1, Sampling(10), 1, "max_prompt_tokens", "at most 54.*64 tokens.*max_completion_tokens=10"),
        ([[4]], 1, Sampling(64), 1, "max_completion_tokens", "context of 64 tokens"),
        ([[4], []], 1, Sampling(2), 2, "prompts", "prompt 1 without tokens"),
        ([[4]], 0, Sampling(2), 0, "group_size", "at least 1"),
        ([[4]], 2, Sampling(2), 3, "seeds", "1 prompts times 2, got 3"),
    ],
)
def test_requests_that_cannot_be_met(engine, prompts, group_size, sampling, num_seeds, field, said):
    with pytest.raises(ConfigError, match=said) as caught:
        engine.generate(prompts, group_size, sampling, range(num_seeds))
    assert caught.value.field == field


def test_settings_that_cannot_work(model):
    with pytest.raises(ConfigError, match="max_batch=0"):
        HFEngine(model, TOKENIZER, max_batch=0)
    with pytest.raises(ConfigError, match="eos_token_id=None"):
        HFEngine(tiny_model(eos_token_id=None), SimpleNamespace(eos_token_id=None))
    closed = HFEngine(model, TOKENIZER)
    closed.close()
    with pytest.raises(ConfigError, match="closed"):
        closed.generate(PROMPTS, 1, Sampling(2), range(4))
    assert HFEngine(model, TOKENIZER).generate([], 4, Sampling(2), []) == []


def test_longest_prompt_fills_the_context_exactly(engine):
    completion = engine.generate([[4] * 54], 1, Sampling(10), [0])[0]
    assert 1 <= len(completion.tokens) <= 10


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.95, 1.0])
def test_sampling_distribution_is_that_of_transformers(temperature, top_p):
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    logits = 3.0 * torch.randn(16, 50, generator=torch.Generator().manual_seed(0))
    scores = TopPLogitsWarper(top_p)(None, TemperatureLogitsWarper(temperature)(None, logits))
    log_probs = sampling_log_probs(logits, Sampling(4, temperature, top_p))
    torch.testing.assert_close(log_probs, scores.log_softmax(-1), atol=1e-6, rtol=1e-5)


def test_log_probs_of_greedy_choices_are_those_of_temperature_1_in_float32():
    logits = 3.0 * torch.randn(4, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    log_probs = sampling_log_probs(logits, Sampling(4, 0.0, 0.5))
    torch.testing.assert_close(log_probs, logits.float().log_softmax(-1))
    assert log_probs.dtype == torch.float32


def test_draw_inverts_the_cumulative_distribution():
    for vocabulary in (1, 2, 5, 16, 17, 1000):
        probs = torch.rand(64, vocabulary, generator=torch.Generator().manual_seed(vocabulary)).double()
        probs[:, vocabulary // 2 :: 3] = 0.0
        probs[:, 0] += 1e-3
        probs /= probs.sum(-1, keepdim=True)
        uniform = torch.from_numpy(uniform_numbers(range(64), 1)[:, 0])
        expected = (probs.cumsum(-1) <= uniform[:, None]).sum(-1)
        assert draw(probs.float(), uniform).tolist() == expected.tolist()


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-53])
def test_the_ends_of_the_unit_interval_never_draw_what_has_no_probability(uniform):
    probs = torch.tensor([[0.0, 0.0, 0.3, 0.7, 0.0, 0.0, 0.0, 0.0], [0.0, 0.1, 0.0, 0.0, 0.2, 0.7, 0.0, 0.0]])
    drawn = draw(probs, torch.full((2,), uniform, dtype=torch.float64))
    assert drawn.tolist() == ([2, 1] if uniform == 0.0 else [3, 5])


def test_uniform_numbers_differ_between_neighbouring_and_huge_seeds():
    numbers = uniform_numbers([0, 1, 2, 2**31, 2**63 - 1, 2**63, -1], 50)
    assert len(np.unique(numbers)) == numbers.size
    np.testing.assert_array_equal(numbers[2], uniform_numbers([2], 50)[0])
    np.testing.assert_array_equal(numbers[2, :7], uniform_numbers([2], 7)[0])
    assert stats.kstest(uniform_numbers(range(2000), 1)[:, 0], "uniform").pvalue > 1e-3


def test_memory_limit_falls_with_length_and_stays_within_its_bounds(model):
    limits = [memory_limit(model, tokens) for tokens in (8, 10_000, 10**7, 10**9)]
    assert limits[0] == 512
    assert limits == sorted(limits, reverse=True)
    assert 1 < limits[1] < 512
    assert limits[-1] == 1
