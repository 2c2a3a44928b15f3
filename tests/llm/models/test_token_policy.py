"""TokenPolicy against full logits: values, gradients, padding, adapters, checkpointing, and models it must refuse."""

import pytest
import torch
from tiny_models import VOCABULARY, lora, random_batch, tiny_model

from r2vpo.errors import ConfigError
from r2vpo.llm.models.token_policy import CausalLM, TokenPolicy

transformers = pytest.importorskip("transformers")


def naive(model, batch, temperature=1.0):
    """Log-probs and entropies from full logits, with the attention mask."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    table = (logits[:, :-1].float() / temperature).log_softmax(-1)
    log_prob = table.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    mask = batch["completion_mask"]
    pad = torch.nn.functional.pad
    entropy = -(table.exp() * table).sum(-1)
    return pad(log_prob, (1, 0)) * mask, pad(entropy, (1, 0)) * mask


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(model, ours, theirs, tolerance=1e-5):
    weights = torch.linspace(-1, 1, ours.numel()).view_as(ours)
    got, want = gradients(model, (ours * weights).sum()), gradients(model, (theirs * weights).sum())
    assert got.keys() == want.keys()
    assert got
    for name in want:
        size = max(1.0, float(want[name].abs().max()))
        torch.testing.assert_close(got[name], want[name], rtol=0, atol=tolerance * size, msg=name)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("chunk_tokens", [None, 1])
def test_full_logits_give_the_same_values_and_gradients(tied, temperature, chunk_tokens):
    model, batch = tiny_model(tied), random_batch()
    ours = TokenPolicy(model, temperature, chunk_tokens).log_prob(batch)
    theirs, entropy = naive(model, batch, temperature)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert_same_gradients(model, ours, theirs)
    both = TokenPolicy(model, temperature).log_prob_and_entropy(batch)
    torch.testing.assert_close(both[0], theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(both[1], entropy, rtol=0, atol=1e-5)
    assert not both[1].requires_grad
    assert_same_gradients(model, TokenPolicy(model, temperature).entropy(batch), naive(model, batch, temperature)[1])


def test_only_scored_tokens_are_filled():
    batch = random_batch([(5, 7), (2, 3)])
    batch["completion_mask"][0, 8] = False
    log_prob = TokenPolicy(tiny_model()).log_prob(batch)
    assert torch.equal(log_prob != 0, batch["completion_mask"])
    assert (log_prob[batch["completion_mask"]] < 0).all()
    batch["completion_mask"][:] = False
    assert not TokenPolicy(tiny_model()).log_prob(batch).any()


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_ratio_is_one_before_the_first_step(mode):
    """Same bits twice, without gradient and with, although the model came with dropout."""
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=2, eos_token_id=1
    )
    assert config.resid_pdrop > 0
    policy, batch = TokenPolicy(transformers.GPT2LMHeadModel(config)), random_batch()
    getattr(policy, mode)()
    getattr(policy.model, mode)()
    with torch.no_grad():
        stored = policy.log_prob(batch)
    assert torch.equal(stored, policy.log_prob(batch))
    assert torch.equal(stored, policy.log_prob_and_entropy(batch)[0])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("pad", [0, 17])
def test_padding_changes_nothing(attention, pad):
    policy = TokenPolicy(tiny_model(attn_implementation=attention))
    padded = random_batch(pad=pad)
    together = policy.log_prob(padded)
    for row in range(3):
        length = int(padded["attention_mask"][row].sum())
        alone = policy.log_prob({k: v[row : row + 1, :length] for k, v in padded.items()})
        torch.testing.assert_close(together[row : row + 1, :length], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_lora_trains_the_adapter_alone(tied):
    pytest.importorskip("peft")
    model, batch = lora(tiny_model(tied), scale=0.1), random_batch()
    ours, (theirs, _) = TokenPolicy(model).log_prob(batch), naive(model, batch)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    with model.disable_adapter():
        assert (naive(model, batch)[0] - theirs).abs().max() > 0.1
    assert_same_gradients(model, ours, theirs)
    assert all("lora_" in name for name in gradients(model, TokenPolicy(model).log_prob(batch).sum()))


@pytest.mark.parametrize("adapter", [False, True])
def test_gradient_checkpointing_recomputes_the_same_gradients(adapter):
    model, batch = tiny_model(), random_batch()
    if adapter:
        pytest.importorskip("peft")
        model = lora(model)
    expected = gradients(model, TokenPolicy(model).log_prob(batch).sum())
    model.eval()  # as from_pretrained leaves it
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy = TokenPolicy(model)
    assert not model.get_decoder().layers[0].mlp.training
    calls = []
    hook = model.get_decoder().layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    actual = gradients(model, policy.log_prob(batch).sum())
    hook.remove()
    assert len(calls) == 2  # once forward, once again in the backward pass
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_finite_and_close(autocast):
    model, batch = tiny_model(scale=0.1), random_batch()
    expected = TokenPolicy(model).log_prob(batch)
    model = model if autocast else model.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        actual = TokenPolicy(model).log_prob(batch)
    assert actual.dtype == torch.float32
    assert (actual - expected).abs().max() < 0.1
    assert (actual != expected).any()
    for gradient in gradients(model, actual.sum()).values():
        assert gradient.isfinite().all()


def test_a_broken_weight_shows_in_the_log_probs():
    model = tiny_model()
    model.lm_head.weight.data[7] = float("nan")
    assert TokenPolicy(model).log_prob(random_batch()).isnan().any()


ARCHITECTURES = {
    "Cohere": {"logit_scale": 0.0625},
    "Granite": {"logits_scaling": 8.0},
    "Llama": {},
    "Gemma": {"head_dim": 8},
    "OPT": {"ffn_dim": 64, "word_embed_proj_dim": 16},
    "GPTNeoX": {},
    "Phi": {},
    "Mamba": {"state_size": 4},
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_other_architectures_match_their_own_logits(architecture):
    """Factors on the logits, heads with bias, projections before the head, no attention at all."""
    model = make(architecture, **ARCHITECTURES[architecture]).eval()
    batch = random_batch()
    theirs, _ = naive(model, batch)
    torch.testing.assert_close(TokenPolicy(model).log_prob(batch), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["Gemma2", "Gemma3Text"])
def test_capped_logits_are_refused(name):
    with pytest.raises(ConfigError, match=r"model='Gemma.*final_logit_softcapping=30"):
        TokenPolicy(make(name, final_logit_softcapping=30.0, head_dim=8))


def test_anything_unknown_after_the_head_is_refused():
    class Doubled(transformers.Qwen2ForCausalLM):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 2.0
            return output

    with pytest.raises(ConfigError, match=r"model='Doubled'.*last hidden states"):
        TokenPolicy(Doubled(tiny_model().config))


def test_the_look_inside_leaves_every_mode_as_it_was():
    model = tiny_model().train()
    model.model.layers[0].eval()
    before = {name: module.training for name, module in model.named_modules()}
    CausalLM(model)
    assert {name: module.training for name, module in model.named_modules()} == before


@pytest.mark.parametrize("settings", [{"target_modules": ["lm_head"]}, {"modules_to_save": ["lm_head"]}])
def test_an_adapter_on_the_head_is_refused(settings):
    pytest.importorskip("peft")
    with pytest.raises(ConfigError, match="output layer is a plain linear layer"):
        TokenPolicy(lora(tiny_model(), **settings))


def test_prompt_tuning_is_refused():
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(ConfigError, match="without prompt tuning"):
        TokenPolicy(peft.get_peft_model(tiny_model(), config))


def test_a_module_that_is_no_language_model_is_refused():
    with pytest.raises(ConfigError, match="model='Linear'"):
        TokenPolicy(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b["attention_mask"][1].copy_(b["attention_mask"][1].flip(0)), "padding on the right"),
        (lambda b: b["attention_mask"][2, 3].zero_(), "padding on the right"),
        (lambda b: b["completion_mask"][0, 0].fill_(True), "column 0"),
        (lambda b: b["completion_mask"][1, -1].fill_(True), "or padding"),
        (lambda b: b.update(completion_mask=b["completion_mask"][:, :-1]), "one shape"),
    ],
)
def test_wrong_batches_are_refused(change, message):
    batch = random_batch()
    change(batch)
    with pytest.raises(ValueError, match=message):
        TokenPolicy(tiny_model()).log_prob(batch)


@pytest.mark.parametrize(("field", "value"), [("temperature", 0.0), ("temperature", float("nan")), ("chunk_tokens", 0)])
def test_settings_out_of_range(field, value):
    with pytest.raises(ConfigError, match=field):
        TokenPolicy(tiny_model(), **{field: value})


def make(name, **settings):
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "initializer_range": 0.2,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 1,
    }
    prefix = name.removesuffix("Text")
    config = getattr(transformers, f"{name}Config")(**{**sizes, **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, f"{prefix}ForCausalLM")(config)
