"""One gradient step of a linear policy whose gradient is known by hand."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from r2vpo.dual import DualController
from r2vpo.objectives import make_objective
from r2vpo.update import PolicyUpdater, Scored

UNCLIPPED = 1e9


class RecordingDual(DualController):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = []

    def update(self, ratio_variance):
        self.seen.append(ratio_variance)
        return super().update(ratio_variance)


class Problem:
    """Ten unevenly masked sequences of four tokens under log pi = w x + b, which has moved since sampling."""

    def __init__(
        self,
        objective="r2vpo",
        lam=0.3,
        lr=0.1,
        max_norm=UNCLIPPED,
        optimizer=torch.optim.SGD,
        **options,
    ):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(10, 4, 3, dtype=torch.float64, generator=generator)
        self.advantage = torch.randn(10, 4, dtype=torch.float64, generator=generator)
        self.model = nn.Linear(3, 1, dtype=torch.float64)
        with torch.no_grad():
            self.model.weight.copy_(torch.tensor([[0.2, -0.4, 0.1]]))
            self.model.bias.fill_(-1.0)
        noise = torch.randn(10, 4, dtype=torch.float64, generator=generator)
        self.old_log_prob = self.log_prob(slice(None)).detach() - 0.5 * noise
        lengths = torch.tensor([4, 4, 1, 3, 1, 2, 1, 4, 1, 2])
        self.mask = torch.arange(4) < lengths[:, None]
        self.age = torch.arange(4).repeat(10, 1) % 2
        self.x[~self.mask] = 1e3
        self.old_log_prob[~self.mask] = math.nan
        self.advantage[~self.mask] = math.inf
        self.count = int(self.mask.sum())
        self.auxiliary = 0.0
        self.offset = torch.zeros(10, 4, dtype=torch.float64)
        """Added to the log-probs; a place to break them."""

        self.dual = RecordingDual(lam, delta=0.1, eta=0.5)
        self.updater = PolicyUpdater(
            make_objective(objective),
            self.dual,
            optimizer(self.model.parameters(), lr=lr),
            self.score,
            max_norm,
            **options,
        )

    def log_prob(self, index):
        return self.model(self.x[index]).squeeze(-1)

    def score(self, index):
        log_prob = self.log_prob(index)
        squares = torch.where(self.mask[index], log_prob.square(), 0.0)
        auxiliary_loss = self.auxiliary * squares.sum() / self.count if self.auxiliary else None
        return Scored(
            log_prob=log_prob + self.offset[index],
            old_log_prob=self.old_log_prob[index],
            advantage=self.advantage[index],
            mask=self.mask[index],
            age=self.age[index],
            auxiliary_loss=auxiliary_loss,
        )

    def step(self, sizes=(10,)):
        return self.updater.step(torch.arange(10).split(list(sizes)), self.count)

    @property
    def ratio(self):
        """Unmasked ratios, ``[count]``."""
        return (self.log_prob(slice(None)).detach() - self.old_log_prob)[self.mask].exp()

    @property
    def parameters(self):
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])

    def gradient_by_hand(self, lam, auxiliary=0.0):
        """Gradient of the mean loss: log pi is linear, so grad log pi is (x, 1)."""
        log_prob, ratio = self.log_prob(slice(None)).detach()[self.mask], self.ratio
        weight = 2 * auxiliary * log_prob - (self.advantage[self.mask] - 2 * lam * (ratio - 1)) * ratio
        features = torch.cat([self.x[self.mask], torch.ones(self.count, 1, dtype=torch.float64)], dim=1)
        return (weight[:, None] * features).sum(dim=0) / self.count


def assert_same(actual, expected, atol=1e-12):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


SPLITS = [(10,), (5, 5), (2, 2, 2, 2, 2), (1, 9), (7, 1, 2)]


@pytest.mark.parametrize("sizes", SPLITS)
def test_step_is_the_gradient_of_the_global_mean_however_the_minibatch_is_cut(sizes):
    problem = Problem(lam=0.3, lr=0.1)
    problem.auxiliary = 0.7
    before, gradient = problem.parameters, problem.gradient_by_hand(lam=0.3, auxiliary=0.7)
    assert problem.step(sizes) is True
    assert_same(problem.parameters, before - 0.1 * gradient)
    assert problem.updater.summary()["grad_norm"] == pytest.approx(gradient.norm().item(), rel=1e-12)


@pytest.mark.parametrize("sizes", SPLITS)
def test_dual_is_fed_the_mean_over_tokens(sizes):
    problem = Problem()
    ratio = problem.ratio
    chunks = ratio.split([int(part.sum()) for part in problem.mask.split(list(sizes))])
    mean_of_means = sum((c - 1).square().mean().item() for c in chunks) / len(chunks)
    mean = (ratio - 1).square().mean().item()
    assert len(sizes) == 1 or abs(mean_of_means / mean - 1) > 0.02

    problem.step(sizes)
    assert problem.dual.seen == [pytest.approx(mean, rel=1e-12)]
    assert problem.dual.lam == pytest.approx(0.3 - 0.5 * (0.1 - mean), rel=1e-12)


@pytest.mark.parametrize("drop_gradients", [True, False])
def test_each_step_uses_the_lambda_the_last_one_left_and_a_gradient_of_its_own(drop_gradients):
    problem = Problem(lam=0.3, drop_gradients=drop_gradients)
    problem.step()
    assert problem.dual.lam != 0.3
    before, gradient = problem.parameters, problem.gradient_by_hand(lam=problem.dual.lam)
    problem.step()
    assert_same(problem.parameters, before - 0.1 * gradient)


def test_objectives_without_lambda_are_not_given_one():
    problem = Problem(objective="none", lam=5.0)
    before, gradient = problem.parameters, problem.gradient_by_hand(lam=0.0)
    assert problem.step()
    assert_same(problem.parameters, before - 0.1 * gradient)
    assert problem.updater.summary()["lam"] == 0.0


@pytest.mark.parametrize("limit", [0.01, 0.1, UNCLIPPED])
def test_gradient_norm_is_limited_over_all_micro_batches_together(limit):
    problem = Problem(lr=1.0, max_norm=limit)
    before, gradient = problem.parameters, problem.gradient_by_hand(lam=0.3)
    norm = gradient.norm().item()
    assert norm > 0.1
    problem.step((5, 5))
    change = before - problem.parameters
    assert change.norm().item() == pytest.approx(min(limit, norm), rel=1e-5)
    assert_same(change / change.norm(), gradient / norm)
    assert problem.updater.summary()["grad_norm"] == pytest.approx(norm, rel=1e-12)


def break_loss(problem):
    problem.offset[7, 1] = math.nan


def break_advantage(problem):
    problem.advantage[7, 1] = math.inf


def break_gradient(problem):
    # The loss stays finite: the square root of 0 is 0 and its derivative infinite.
    score = problem.updater.score

    def with_infinite_slope(index):
        scored = score(index)
        bias = problem.model.bias
        scored.log_prob = scored.log_prob + (bias - bias.detach()).sum().abs().sqrt()
        return scored

    problem.updater.score = with_infinite_slope


def break_auxiliary_loss(problem):
    problem.auxiliary = math.nan


@pytest.mark.parametrize("drop_gradients", [True, False])
@pytest.mark.parametrize("damage", [break_loss, break_advantage, break_gradient, break_auxiliary_loss])
def test_a_non_finite_step_changes_nothing_and_is_counted(damage, drop_gradients):
    problem = Problem(optimizer=torch.optim.Adam, drop_gradients=drop_gradients)
    problem.step()
    before = problem.parameters
    state = copy.deepcopy(problem.updater.optimizer.state_dict())
    lam, seen = problem.dual.lam, list(problem.dual.seen)

    damage(problem)
    assert problem.step((5, 5)) is False  # the first half is fine and has already been through backward

    assert torch.equal(problem.parameters, before)
    torch.testing.assert_close(problem.updater.optimizer.state_dict(), state, rtol=0, atol=0)
    assert (problem.dual.lam, problem.dual.seen) == (lam, seen)
    assert all(p.grad is None or (p.grad == 0).all() for p in problem.model.parameters())
    summary = problem.updater.summary()
    assert (summary["skipped_steps"], summary["gradient_steps"]) == (1, 1)


@pytest.mark.parametrize("drop_gradients", [True, False])
def test_training_goes_on_after_a_skipped_step_as_if_it_had_not_been(drop_gradients):
    options = {"optimizer": torch.optim.Adam, "drop_gradients": drop_gradients}
    interrupted, undisturbed = Problem(**options), Problem(**options)
    for problem in (interrupted, undisturbed):
        problem.step()
    interrupted.offset[7, 1] = math.nan
    interrupted.step((5, 5))
    interrupted.offset[7, 1] = 0.0
    for problem in (interrupted, undisturbed):
        problem.step()
    assert torch.equal(interrupted.parameters, undisturbed.parameters)
    assert interrupted.dual.lam == undisturbed.dual.lam


def test_a_minibatch_without_unmasked_elements_is_skipped():
    problem = Problem()
    before = problem.parameters
    problem.mask[:] = False
    assert problem.updater.step([torch.arange(10)], 0) is False
    assert torch.equal(problem.parameters, before)


@pytest.mark.parametrize("log_prob", [math.inf, -math.inf])
def test_a_non_finite_log_prob_stops_the_step(log_prob):
    problem = Problem()
    problem.offset[7, 1] = log_prob
    assert problem.step() is False


@pytest.mark.parametrize("damage", [break_loss, break_gradient])
def test_summary_leaves_skipped_steps_out(damage):
    problem = Problem()
    damage(problem)
    problem.step((5, 5))
    assert "ratio_variance" not in problem.updater.summary()


def test_summary_covers_the_unmasked_tokens_of_every_step():
    problem = Problem()
    ratios, ages = [], problem.age[problem.mask].repeat(2)
    for sizes in ((5, 5), (10,)):
        ratios.append(problem.ratio)
        problem.step(sizes)
    squares = (torch.cat(ratios) - 1).square()
    summary = problem.updater.summary()
    assert summary["ratio_variance"] == pytest.approx(squares.mean().item(), rel=1e-12)
    assert summary["max_ratio"] == pytest.approx(torch.cat(ratios).max().item(), rel=1e-12)
    by_age = {age: squares[ages == age].mean().item() for age in (0, 1)}
    assert summary["ratio_variance_by_age"] == pytest.approx(by_age, rel=1e-12)
    assert summary["lam"] == problem.dual.lam
    assert (summary["gradient_steps"], summary["skipped_steps"]) == (2, 0)


def test_summary_starts_afresh():
    problem = Problem()
    problem.auxiliary = 0.5
    problem.step()
    assert "ratio_variance" in problem.updater.summary()
    assert problem.updater.summary() == {"lam": problem.dual.lam, "gradient_steps": 0, "skipped_steps": 0}
    ratio = problem.ratio
    problem.step()
    expected = (ratio - 1).square().mean().item()
    assert problem.updater.summary()["ratio_variance"] == pytest.approx(expected, rel=1e-12)


def test_auxiliary_loss_is_added_up_over_micro_batches():
    problem = Problem()
    problem.auxiliary = 0.5
    expected = 0.5 * problem.log_prob(slice(None)).detach()[problem.mask].square().mean().item()
    problem.step((2, 3, 5))
    assert problem.updater.summary()["auxiliary_loss"] == pytest.approx(expected, rel=1e-12)


def test_ratio_is_exactly_one_on_the_first_step_and_not_after():
    torch.manual_seed(0)
    model, observations = nn.Linear(5, 3), torch.randn(64, 5)

    def distribution():
        return Independent(Normal(model(observations), 0.6), 1)

    with torch.no_grad():
        actions = distribution().sample()
        old_log_prob = distribution().log_prob(actions)
    advantage = torch.randn(64)
    updater = PolicyUpdater(
        make_objective("r2vpo"),
        DualController(lam=1.0),
        torch.optim.Adam(model.parameters(), lr=1e-2),
        lambda _: Scored(distribution().log_prob(actions), old_log_prob, advantage),
        max_grad_norm=1.0,
    )
    updater.step([None], 64)
    first = updater.summary()
    updater.step([None], 64)
    assert (first["ratio_variance"], first["max_ratio"], first["ess"], first["kl"]) == (0.0, 1.0, 1.0, 0.0)
    assert updater.summary()["ratio_variance"] > 0
