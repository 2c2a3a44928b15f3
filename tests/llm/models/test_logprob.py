"""Log-probs without logits: equal to the naive way in values and gradients, in a fraction of its memory."""

import pytest
import torch

from r2vpo.errors import ConfigError
from r2vpo.llm.models import logprob
from r2vpo.llm.models.logprob import token_log_probs


def naive(hidden, weight, bias, targets, temperature=1.0):
    logits = torch.nn.functional.linear(hidden, weight, bias) / temperature
    log_probs = logits.log_softmax(-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    return log_probs.gather(1, targets[:, None]).squeeze(1), entropy


def problem(tokens=37, vocabulary=700, width=16, dtype=torch.float32, seed=0, scale=1.0, bias=True):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()

    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    return normal(tokens, width), normal(vocabulary, width), normal(vocabulary) if bias else None, targets


def leaves(inputs):
    return [x for x in inputs[:3] if x is not None]


@pytest.fixture
def narrow(monkeypatch):
    """Slices of the vocabulary may be as narrow as one entry."""
    monkeypatch.setattr(logprob, "MINIMUM_SLICE", 1)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("chunk_tokens", [None, 1, 7, 36, 37, 1000])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6, 3.0])
def test_values_and_gradients_are_those_of_the_naive_way(dtype, tolerance, chunk_tokens, bias, temperature):
    inputs = problem(dtype=dtype, bias=bias)
    upstream = torch.linspace(-1, 1, 37, dtype=dtype)
    expected, expected_entropy = naive(*inputs, temperature)
    actual, entropy = token_log_probs(*inputs, temperature, chunk_tokens, entropy=True)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(entropy, expected_entropy, rtol=0, atol=tolerance)
    expected_grads = torch.autograd.grad((expected * upstream).sum(), leaves(inputs))
    grads = torch.autograd.grad((actual * upstream).sum(), leaves(inputs))
    for got, want in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=tolerance)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_large_logits_lose_no_digits(temperature):
    """Float32 log-probs of logits in the thousands, next to float64 ones of the same logits."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(900, 1, generator=generator)
    hidden, targets = torch.ones(8, 1), torch.arange(8)
    offset = torch.full((900,), 4096.0)
    exact, _ = naive(hidden.double(), weight.double(), None, targets, temperature)
    actual, _ = token_log_probs(hidden, weight, None, targets, temperature)
    torch.testing.assert_close(actual.double(), exact, rtol=0, atol=2e-6)
    shifted, _ = token_log_probs(hidden, weight, offset, targets, temperature)
    torch.testing.assert_close(shifted.double(), exact, rtol=0, atol=2e-3)  # the spacing of floats at 4096 is 5e-4


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("chunk_tokens", [1, None])
def test_gradcheck_of_log_probs_and_entropies(chunk_tokens):
    hidden, weight, bias, targets = problem(5, 23, 3, torch.float64)

    def function(hidden, weight, bias):
        return token_log_probs(hidden, weight, bias, targets, 0.8, chunk_tokens, entropy=True, entropy_gradient=True)

    assert torch.autograd.gradcheck(function, (hidden, weight, bias))


def test_entropies_carry_no_gradient_unless_asked():
    inputs = problem()
    _, entropy = token_log_probs(*inputs, entropy=True)
    assert not entropy.requires_grad
    _, entropy = token_log_probs(*inputs, entropy=True, entropy_gradient=True)
    grads = torch.autograd.grad(entropy.sum(), leaves(inputs))
    for got, want in zip(grads, torch.autograd.grad(naive(*inputs)[1].sum(), leaves(inputs)), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert token_log_probs(*inputs)[1] is None


def test_a_tied_weight_gets_both_gradients():
    """The same matrix as embedding and head."""
    _, weight, _, targets = problem(bias=False)
    ids = torch.arange(37)
    (got,) = torch.autograd.grad(token_log_probs(weight[ids].tanh(), weight, None, targets)[0].sum(), weight)
    (want,) = torch.autograd.grad(naive(weight[ids].tanh(), weight, None, targets)[0].sum(), weight)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_no_tokens():
    inputs = problem(tokens=0)
    values, entropy = token_log_probs(*inputs, entropy=True)
    assert values.shape == entropy.shape == (0,)
    for x, grad in zip(leaves(inputs), torch.autograd.grad(values.sum(), leaves(inputs)), strict=True):
        assert grad.shape == x.shape
        assert not grad.any()


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_frozen_inputs_get_no_gradient(frozen):
    inputs = problem()
    inputs[frozen].requires_grad_(False)
    token_log_probs(*inputs)[0].sum().backward()
    assert [x.grad is None for x in inputs[:3]] == [i == frozen for i in range(3)]


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_rounds_only_the_products(autocast):
    """Against float64 on the same rounded inputs: bfloat16 keeps 8 bits, and logits are about 4 here."""
    inputs = problem(64, 512, dtype=torch.float32 if autocast else torch.bfloat16, scale=0.7)
    exact = [None if x is None else x.detach().double().requires_grad_() for x in inputs[:3]]
    expected, _ = naive(*exact, inputs[3])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        actual, _ = token_log_probs(*inputs)
    assert actual.dtype == torch.float32
    assert (actual - expected).abs().max() < 0.1
    expected.sum().backward()
    actual.sum().backward()
    for got, want in zip(inputs[:3], exact, strict=True):
        assert got.grad.dtype == got.dtype
        error = (got.grad.double() - want.grad).norm() / want.grad.norm()
        assert error < 0.02


def test_twice_gives_the_same_bits():
    inputs = problem(tokens=300, vocabulary=5000)
    assert torch.equal(token_log_probs(*inputs)[0], token_log_probs(*inputs)[0])


def test_the_logits_never_exist():
    """No tensor as large as half of [N, V] is made in the forward or the backward pass."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else [out]:
                if isinstance(x, torch.Tensor):
                    self.elements = max(self.elements, x.numel())
            return out

    inputs = problem(tokens=512, vocabulary=4096, width=8)
    with Largest() as ours:
        token_log_probs(*inputs, chunk_tokens=32, entropy=True)[0].sum().backward()
    with Largest() as theirs:
        naive(*inputs)[0].sum().backward()
    assert theirs.elements == 512 * 4096
    assert ours.elements <= 512 * logprob.MINIMUM_SLICE


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_number_stays_visible(bad):
    hidden, weight, bias, targets = problem()
    hidden.data[3, 2] = bad
    values, _ = token_log_probs(hidden, weight, bias, targets)
    assert values.isfinite().tolist() == [i != 3 for i in range(37)]


def test_wrong_input():
    hidden, weight, bias, targets = problem()
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="temperature"):
            token_log_probs(hidden, weight, bias, targets, temperature)
    with pytest.raises(ConfigError, match="chunk_tokens"):
        token_log_probs(hidden, weight, bias, targets, chunk_tokens=0)
    for wrong in (-1, 700):
        with pytest.raises(ValueError, match="outside the vocabulary of 700"):
            token_log_probs(hidden, weight, bias, torch.full((37,), wrong))
    with pytest.raises(ValueError, match="do not fit"):
        token_log_probs(hidden[:-1], weight, bias, targets)
