"""The compiled gradient step against the eager one, which is the reference."""

import shutil

import pytest
import torch
from torch import nn

from r2vpo.compiled_update import CompiledUpdater, flatten_parameters
from r2vpo.dual import DualController
from r2vpo.objectives import OBJECTIVES, make_objective
from r2vpo.runs import compilation
from r2vpo.runs.compilation import CompilationError, obstacle
from r2vpo.update import Scored, minibatch_loss

N = 24
needs_compiler = pytest.mark.skipif(obstacle() is not None, reason=str(obstacle()))


class Model(nn.Module):
    """A Gaussian of fixed width around a small network, and a value."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.mean = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 2))
        self.value = nn.Linear(5, 1)

    def forward(self, batch):
        log_prob = -0.5 * (batch["actions"] - self.mean(batch["observations"])).square().sum(-1)
        error = self.value(batch["observations"]).squeeze(-1) - batch["value_target"]
        auxiliary = 0.5 * error.square().mean()
        return Scored(log_prob, batch["old_log_prob"], batch["advantage"], age=batch["age"], auxiliary_loss=auxiliary)


def make_updater(objective="r2vpo", bounds=None, **dual):
    model = Model()
    flat = flatten_parameters(model.parameters())
    optimizer = torch.optim.Adam([flat], lr=3e-3, eps=1e-5, fused=True)
    dual = dual or {"lam": 1.0, "delta": 0.02, "rule": "adaptive"}
    return CompiledUpdater(make_objective(objective), DualController(**dual), optimizer, model, flat, 0.5, bounds)


def make_batches(count, size=N, seed=1):
    generator = torch.Generator().manual_seed(seed)
    names = ("old_log_prob", "advantage", "value_target")
    batches = []
    for _ in range(count):
        batch = {name: torch.randn(size, generator=generator) for name in names}
        batch["old_log_prob"] = batch["old_log_prob"] * 0.2 - 2.0
        batch["observations"] = torch.randn(size, 5, generator=generator)
        batch["actions"] = torch.randn(size, 2, generator=generator)
        batch["age"] = torch.arange(size) % 3
        batches.append(batch)
    return batches


def parameters(updater):
    return updater.optimizer.param_groups[0]["params"][0].detach().clone()


def take(updater, batches):
    return [updater.step([batch], count=len(batch["age"])) for batch in batches]


@pytest.fixture
def compiled(compile_cache):
    updater = make_updater()
    updater.use_compiled_step(updater.trace(make_batches(1)[0]))
    return updater


@needs_compiler
def test_hundred_compiled_steps_are_a_hundred_eager_ones(compiled):
    eager, batches = make_updater(), make_batches(100)
    start = parameters(eager)
    assert torch.equal(start, parameters(compiled))
    assert all(take(eager, batches))
    assert all(take(compiled, batches))
    assert compiled.is_compiled
    assert (parameters(eager) - start).abs().max() > 0.05
    # Parameters are of size 1 and have moved by 0.05 and more; single precision resolves 1e-7 at each step.
    torch.testing.assert_close(parameters(compiled), parameters(eager), rtol=1e-5, atol=2e-6)
    assert compiled.dual.lam == pytest.approx(eager.dual.lam, rel=1e-5)
    for name, value in eager.optimizer.state_dict()["state"][0].items():
        torch.testing.assert_close(compiled.optimizer.state_dict()["state"][0][name], value, rtol=1e-4, atol=1e-7)
    ours, theirs = compiled.summary(), eager.summary()
    assert ours.keys() == theirs.keys()
    assert ours["gradient_steps"] == 100
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-4), name


@needs_compiler
def test_compiled_and_eager_steps_can_follow_each_other(compiled):
    mixed, reference, batches = compiled, make_updater(), make_batches(6) + make_batches(2, size=7)
    take(reference, batches)
    take(mixed, batches[:3])
    mixed.use_eager_step()
    mixed.optimizer.load_state_dict(mixed.optimizer.state_dict())
    take(mixed, batches[3:])  # the last two have another size, which is always stepped eagerly
    torch.testing.assert_close(parameters(mixed), parameters(reference), rtol=1e-5, atol=1e-6)


def test_learning_rate_set_after_loading_a_state_counts(compile_cache):
    updater, batches = make_updater(), make_batches(2)
    graph = updater.trace(batches[0])._graph
    updater._run = lambda inputs: graph(*inputs)
    take(updater, batches[:1])
    updater.optimizer.load_state_dict(updater.optimizer.state_dict())
    updater.optimizer.param_groups[0]["lr"] = 0.0
    before = parameters(updater)
    take(updater, batches[1:])
    assert torch.equal(parameters(updater), before)


@needs_compiler
@pytest.mark.parametrize("name", ["old_log_prob", "value_target", "observations"])
def test_compiled_step_that_is_not_finite_changes_nothing(compiled, name):
    take(compiled, make_batches(3))
    before, lam = parameters(compiled), compiled.dual.lam
    moments = {k: v.clone() for k, v in compiled.optimizer.state_dict()["state"][0].items()}
    (bad,) = make_batches(1, seed=5)
    bad[name].view(-1)[4] = float("nan") if name == "observations" else float("inf")
    assert take(compiled, [bad]) == [False]
    assert torch.equal(parameters(compiled), before)
    assert compiled.dual.lam == lam
    for key, value in compiled.optimizer.state_dict()["state"][0].items():
        assert torch.equal(value, moments[key]), key
    assert compiled.summary()["skipped_steps"] == 1
    assert take(compiled, make_batches(1, seed=6)) == [True]


@needs_compiler
def test_second_process_finds_what_the_first_compiled(compiled, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("compiled a second time")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", refuse)
    again = make_updater()
    function = again.trace(make_batches(1)[0])
    assert function.is_cached
    again.use_compiled_step(function)
    assert take(again, make_batches(1)) == [True]
    # Another number in the traced graph is another entry.
    other = make_updater()
    other.max_grad_norm = 0.4
    assert not other.trace(make_batches(1)[0]).is_cached


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_traced_step_of_every_objective_is_the_eager_step(objective, compile_cache):
    traced, eager = make_updater(objective), make_updater(objective)
    batches = make_batches(10)
    graph = traced.trace(batches[0])._graph
    traced._run = lambda inputs: graph(*inputs)
    assert all(take(traced, batches))
    assert all(take(eager, batches))
    assert not torch.equal(parameters(eager), parameters(make_updater(objective)))
    torch.testing.assert_close(parameters(traced), parameters(eager), rtol=1e-5, atol=1e-6)
    assert traced.dual.lam == pytest.approx(eager.dual.lam, rel=1e-5)


@pytest.mark.parametrize("kind", ["traced", "eager"])
def test_parts_are_clipped_each_by_itself(kind, compile_cache):
    (batch,) = make_batches(1)
    updater = make_updater()
    batch["old_log_prob"] = updater.score(batch).log_prob.detach()
    batch["advantage"] *= 0.01
    batch["value_target"] *= 100.0  # the critic's gradient is above the bound, the actor's is not
    sizes = [sum(p.numel() for p in part.parameters()) for part in (updater.score.mean, updater.score.value)]
    updater._clip_sizes = sizes
    if kind == "traced":
        graph = updater.trace(batch)._graph
        updater._run = lambda inputs: graph(*inputs)
    reference = make_updater()
    scored = reference.score(batch)
    minibatch_loss(reference.objective, scored, N, lam=1.0).backward()
    actor, critic = (list(part.parameters()) for part in (reference.score.mean, reference.score.value))
    norms = [float(nn.utils.clip_grad_norm_(part, 0.5)) for part in (actor, critic)]
    assert norms[0] < 0.5 < norms[1]
    take(updater, [batch])
    first_moment = updater.optimizer.state_dict()["state"][0]["exp_avg"]
    torch.testing.assert_close(first_moment, 0.1 * reference._flat.grad, rtol=1e-5, atol=1e-7)
    assert updater.summary()["grad_norm"] == pytest.approx(sum(norm**2 for norm in norms) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("rule", ["fixed", "paper", "adaptive"])
def test_lambda_moves_between_traced_steps(rule, compile_cache):
    dual = {
        "lam": 0.5,
        "rule": rule,
        "delta": None if rule == "fixed" else 0.01,
        "eta": None if rule == "fixed" else 0.1,
    }
    traced, eager, batches = make_updater(**dual), make_updater(**dual), make_batches(5)
    graph = traced.trace(batches[0])._graph
    traced._run = lambda inputs: graph(*inputs)
    take(traced, batches)
    take(eager, batches)
    assert (traced.dual.lam != 0.5) == (rule != "fixed")
    assert traced.dual.lam == pytest.approx(eager.dual.lam, rel=1e-5)
    torch.testing.assert_close(parameters(traced), parameters(eager), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["traced", "eager"])
def test_bounds_hold_after_every_step(kind, compile_cache):
    bounds = {"value.bias": (-0.01, 0.01), "mean.0.bias": (0.2, float("inf"))}
    updater, free, batches = make_updater(bounds=bounds), make_updater(), make_batches(20)
    if kind == "traced":
        graph = updater.trace(batches[0])._graph
        updater._run = lambda inputs: graph(*inputs)
    take(free, batches)
    named = dict(free.score.named_parameters())
    assert named["value.bias"].abs() > 0.01
    for batch in batches:
        take(updater, [batch])
        named = dict(updater.score.named_parameters())
        assert named["value.bias"].abs() <= 0.01
        assert (named["mean.0.bias"] >= 0.2).all()
    assert updater.score.value.weight.abs().max() > 0.01


def test_failed_compilation_says_what_failed_and_leaves_no_entry(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("g++ said no")

    monkeypatch.setenv("R2VPO_CACHE", str(tmp_path))
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fail)
    updater = make_updater()
    function = updater.trace(make_batches(1)[0])
    with pytest.raises(CompilationError, match="g\\+\\+ said no"):
        updater.use_compiled_step(function)
    assert not function.is_cached
    assert not updater.is_compiled
    assert take(updater, make_batches(1)) == [True]


def test_obstacles_are_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "C++ compiler" in compilation.obstacle()
    monkeypatch.delattr(torch._inductor, "aoti_load_package")
    assert torch.__version__ in compilation.obstacle()


def test_only_plain_adam_can_be_compiled():
    model = Model()
    flat = flatten_parameters(model.parameters())
    for optimizer in (torch.optim.Adam([flat], weight_decay=0.1), torch.optim.Adam([flat], amsgrad=True)):
        with pytest.raises(ValueError, match="plain Adam"):
            CompiledUpdater(make_objective("r2vpo"), DualController(), optimizer, model, flat, 0.5)
