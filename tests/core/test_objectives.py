"""Every surrogate against the same formula written sample by sample in plain Python."""

import math

import numpy as np
import pytest
import torch
from objectives_by_hand import CASES, CONSTANT_WEIGHT, DEFAULTS, by_hand

from r2vpo import objectives
from r2vpo.errors import ConfigError
from r2vpo.objectives import OBJECTIVES, hyperparameter_defaults, make_objective

SHAPES = [(90,), (18, 6)]


def make_inputs(shape, seed=0, per_sequence=False):
    """Log-ratios up to +-19.9, small ones on both sides of every clip bound, and some advantages of 0."""
    rng = np.random.default_rng(seed)
    scale = rng.choice([19.9, 0.4, 6e-4], size=(shape[0],) + (1,) * (len(shape) - 1))
    log_ratio = rng.uniform(-1, 1, shape) * scale
    log_ratio[:3] = np.array([19.9, -19.9, 0.0]).reshape(3, *[1] * (len(shape) - 1))
    if per_sequence and len(shape) == 2:
        log_ratio /= shape[1]
    advantage = rng.normal(size=shape) * (rng.random(shape) > 0.2)
    log_prob = rng.uniform(-30, 5, shape)
    return [torch.tensor(x) for x in (log_prob, log_prob - log_ratio, advantage)]


def loss_and_grad(name, hyperparameters, log_prob, old_log_prob, advantage, mask=None):
    leaf = log_prob.clone().requires_grad_()
    loss = make_objective(name, **hyperparameters)(leaf, old_log_prob, advantage, mask)
    (grad,) = torch.autograd.grad(loss.sum(), leaf)
    return loss.detach(), grad


def assert_close(actual, expected):
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-10, atol=1e-10)


def test_every_objective_has_a_case():
    assert {name for name, _ in CASES} == set(OBJECTIVES)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_defaults(name):
    assert hyperparameter_defaults(name) == DEFAULTS[name]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "hyperparameters"), CASES)
def test_value_and_gradient(name, hyperparameters, shape):
    inputs = make_inputs(shape, per_sequence=hyperparameters.get("level") == "sequence")
    loss, grad = loss_and_grad(name, hyperparameters, *inputs)
    expected_loss, expected_grad = by_hand(name, hyperparameters, *inputs)
    assert loss.shape == grad.shape == shape
    assert_close(loss, expected_loss)
    assert_close(grad, expected_grad)


@pytest.mark.parametrize(
    ("poison", "dtype"), [(math.nan, torch.bool), (math.inf, torch.int64), (-math.inf, torch.float64)]
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "hyperparameters"), CASES)
def test_masked_elements_are_inert(name, hyperparameters, shape, dtype, poison):
    inputs = make_inputs(shape, seed=1, per_sequence=hyperparameters.get("level") == "sequence")
    mask = torch.tensor(np.random.default_rng(2).random(shape) < 0.6)
    mask[-1] = False
    if len(shape) == 2:
        mask[3:8] = torch.arange(shape[1]) == 1
    for values in inputs:
        values[~mask] = poison
    loss, grad = loss_and_grad(name, hyperparameters, *inputs, mask.to(dtype))
    assert (loss[~mask] == 0).all()
    assert (grad[~mask] == 0).all()
    expected_loss, expected_grad = by_hand(name, hyperparameters, *inputs, mask)
    assert_close(loss, expected_loss)
    assert_close(grad, expected_grad)


@pytest.mark.parametrize("log_ratio", [-1e4, -100.0, -25.0, -20.5, 20.5, 25.0, 100.0, 1e4])
@pytest.mark.parametrize("shape", [(6,), (6, 3)], ids=str)
@pytest.mark.parametrize(("name", "hyperparameters"), CASES)
def test_beyond_the_clamp(name, hyperparameters, shape, log_ratio):
    log_prob, _, advantage = make_inputs(shape, seed=3)
    old_log_prob = log_prob - log_ratio
    loss, grad = loss_and_grad(name, hyperparameters, log_prob, old_log_prob, advantage)
    expected_loss, expected_grad = by_hand(name, hyperparameters, log_prob, old_log_prob, advantage)
    assert torch.isfinite(loss).all()
    assert_close(loss, expected_loss)
    assert_close(grad, expected_grad)
    if name not in CONSTANT_WEIGHT:
        assert (grad == 0).all()

    single = [x.float() for x in (log_prob, old_log_prob, advantage)]
    assert all(torch.isfinite(x).all() for x in loss_and_grad(name, hyperparameters, *single))


def test_gppo_has_the_value_of_clip_higher():
    inputs = make_inputs((90,))
    assert torch.equal(objectives.gppo(*inputs), objectives.clip_higher(*inputs))


def test_spo_is_r2vpo_with_a_lambda_per_sample():
    log_prob, old_log_prob, advantage = make_inputs((90,))
    loss, grad = loss_and_grad("spo", {"eps": 0.3}, log_prob, old_log_prob, advantage)
    for i in range(90):
        sample = log_prob[i : i + 1], old_log_prob[i : i + 1], advantage[i : i + 1]
        own_loss, own_grad = loss_and_grad("r2vpo", {"lam": abs(advantage[i].item()) / 0.6}, *sample)
        assert_close(own_loss, loss[i : i + 1])
        assert_close(own_grad, grad[i : i + 1])


@pytest.mark.parametrize(("name", "hyperparameters"), CASES)
def test_gradient_is_minus_advantage_at_ratio_one(name, hyperparameters):
    log_prob, _, advantage = make_inputs((90,))
    _, grad = loss_and_grad(name, hyperparameters, log_prob, log_prob, advantage)
    shift = DEFAULTS[name].get("shift", 0.0) if "shift" not in hyperparameters else hyperparameters["shift"]
    torch.testing.assert_close(grad, -(advantage + shift), rtol=1e-14, atol=0)


@pytest.mark.parametrize(("advantage", "lam"), [(1.0, 0.04), (2.0, 0.5), (-1.0, 1.0), (0.0, 0.7)])
def test_r2vpo_gradient_changes_sign_where_the_penalty_outweighs_the_advantage(advantage, lam):
    log_flip = math.log(1 + advantage / (2 * lam))
    log_prob = torch.tensor([log_flip - 1e-9, log_flip, log_flip + 1e-9], dtype=torch.float64)
    zeros = torch.zeros_like(log_prob)
    _, grad = loss_and_grad("r2vpo", {"lam": lam}, log_prob, zeros, zeros + advantage)
    assert grad[0] < 0 < grad[2]
    assert abs(grad[1]) < 1e-2 * grad[2]


@pytest.mark.parametrize(("name", "pulls"), [("r2vpo", True), ("onesided", False), ("spo", False), ("ppo_clip", False)])
def test_only_r2vpo_pulls_samples_of_zero_advantage_back(name, pulls):
    log_prob = torch.tensor([0.7, -0.7], dtype=torch.float64)
    _, grad = loss_and_grad(name, {}, log_prob, torch.zeros(2), torch.zeros(2))
    assert (grad[0] > 0 > grad[1]) if pulls else (grad == 0).all()


@pytest.mark.parametrize(("shape", "sizes"), [((12,), [4, 4, 4]), ((12,), [1, 11]), ((12, 5), [2, 7, 3])])
@pytest.mark.parametrize(("name", "hyperparameters"), CASES)
def test_micro_batches_add_up_to_the_whole_gradient(name, hyperparameters, shape, sizes):
    rng = np.random.default_rng(4)
    features = torch.tensor(rng.normal(size=(*shape, 3)))
    old_log_prob, advantage = torch.tensor(rng.normal(size=(2, *shape)))
    mask = torch.tensor(rng.random(shape) < 0.7)
    objective = make_objective(name, **hyperparameters)
    start = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    measured = objective.measured((features @ start - old_log_prob)[mask], advantage[mask])
    assert bool(measured) == objective.needs_minibatch

    def gradient(parts):
        weights = start.clone().requires_grad_()
        for x, old, a, m in zip(*parts, strict=True):
            (objective(x @ weights, old, a, m, **measured).sum() / mask.sum()).backward()
        return weights.grad

    data = features, old_log_prob, advantage, mask
    torch.testing.assert_close(
        gradient([x.split(sizes) for x in data]), gradient([[x] for x in data]), rtol=1e-12, atol=1e-14
    )


def test_sequence_objectives_on_single_actions_are_the_token_ones():
    inputs = make_inputs((90,))
    pairs = [
        (("topr", {"level": "sequence"}), ("topr", {"level": "token"})),
        (("gspo", {"eps_low": 0.1, "eps_high": 0.3}), ("clip_higher", {"eps_low": 0.1, "eps_high": 0.3})),
    ]
    for sequence, token in pairs:
        results = zip(loss_and_grad(*sequence, *inputs), loss_and_grad(*token, *inputs), strict=True)
        assert all(torch.equal(actual, expected) for actual, expected in results)


def test_call_overrides_what_was_bound():
    inputs = make_inputs((90,))
    bound = make_objective("r2vpo", lam=0.5)
    assert torch.equal(bound(*inputs), objectives.r2vpo(*inputs, lam=0.5))
    assert torch.equal(bound(*inputs, lam=2.0), objectives.r2vpo(*inputs, lam=2.0))
    assert torch.equal(bound(*inputs), objectives.r2vpo(*inputs, lam=0.5))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_r2vpo_and_its_one_sided_form_use_the_dual_variable(name):
    assert make_objective(name).uses_dual == (name in ("r2vpo", "onesided"))


@pytest.mark.parametrize(
    ("name", "hyperparameters", "parts"),
    [
        ("trpo", {}, ["objective", "'trpo'", *OBJECTIVES]),
        ("r2vpo", {"eps": 0.2}, ["eps", "0.2", "lam"]),
        ("none", {"lam": 0.2}, ["lam", "0.2", "no hyperparameters"]),
        ("r2vpo", {"lam": -1.0}, ["lam", "-1.0", "at least 0"]),
        ("r2vpo", {"lam": math.nan}, ["lam", "nan", "finite"]),
        ("r2vpo", {"lam": math.inf}, ["lam", "inf", "finite"]),
        ("r2vpo", {"lam": "0.1"}, ["lam", "'0.1'", "number"]),
        ("r2vpo", {"lam": True}, ["lam", "True", "number"]),
        ("ppo_clip", {"eps": 0}, ["eps", "0", "above 0"]),
        ("spo", {"eps": 0.0}, ["eps", "0.0", "above 0"]),
        ("clip_higher", {"eps_low": -0.1}, ["eps_low", "-0.1", "above 0"]),
        ("gppo", {"eps_high": 0}, ["eps_high", "0", "above 0"]),
        ("cispo", {"cap": 0}, ["cap", "0", "above 0"]),
        ("topr", {"level": "word"}, ["level", "'word'", "'token'", "'sequence'"]),
        ("dppo", {"divergence": "js"}, ["divergence", "'js'", "'tv'", "'kl'"]),
        ("m2po", {"bound": 1.0}, ["bound", "1.0", "left out", "tau"]),
        ("asymre", {"shift": -0.1}, ["shift", "-0.1", "at least 0"]),
        ("vespo", {"lam_pos": 0}, ["lam_pos", "0", "above 0"]),
    ],
)
def test_make_objective_names_field_value_and_allowed_range(name, hyperparameters, parts):
    with pytest.raises(ConfigError) as caught:
        make_objective(name, **hyperparameters)
    assert str(caught.value).startswith(f"{parts[0]}={parts[1]} ")
    assert all(part in caught.value.allowed and part in str(caught.value) for part in parts[2:])


@pytest.mark.parametrize(("name", "key"), [("topr", "level"), ("dppo", "divergence")])
def test_a_choice_that_there_is_not_is_refused_when_called_directly(name, key):
    with pytest.raises(ConfigError, match=f"{key}='word'"):
        OBJECTIVES[name](*make_inputs((5,)), **{key: "word"})


@pytest.mark.parametrize("odd_one", range(4))
@pytest.mark.parametrize("name", OBJECTIVES)
def test_shapes_that_would_broadcast_are_refused(name, odd_one):
    inputs = [torch.zeros(4, 3) for _ in range(3)] + [torch.ones(4, 3, dtype=torch.bool)]
    inputs[odd_one] = inputs[odd_one][:, :1]
    with pytest.raises(ValueError, match="shape"):
        make_objective(name)(*inputs)
