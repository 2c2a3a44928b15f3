from itertools import pairwise

import pytest
import torch

from r2vpo.control import R2VPO
from r2vpo.control.normalization import ObservationNormalizer
from r2vpo.control.policy import GaussianPolicy, ValueFunction, mlp
from r2vpo.diagnostics import gaussian_ratio_variance, ratio_diagnostics
from r2vpo.runs.compilation import obstacle


def make_policy(seed=0, log_std=(-0.3, -2.0, 0.5), actions=3):
    return GaussianPolicy(ObservationNormalizer(5), actions, (16, 16), log_std, torch.Generator().manual_seed(seed))


def test_log_prob_and_entropy_are_those_of_torch_distributions():
    policy = make_policy()
    batch = {"observations": torch.randn(50, 5), "actions": torch.randn(50, 3)}
    reference = torch.distributions.Normal(policy.mean(batch["observations"]), torch.full((3,), -0.3).exp())
    torch.testing.assert_close(policy.log_prob(batch), reference.log_prob(batch["actions"]).sum(-1))
    torch.testing.assert_close(policy.entropy(batch), reference.entropy().sum(-1))


def test_log_std_is_bounded_where_it_is_used():
    policy = make_policy()
    with torch.no_grad():
        policy.log_std.fill_(3.0)
    assert policy.bounded_log_std().tolist() == [0.5] * 3


@pytest.mark.parametrize("gradient_step", ["eager", "compiled"])
def test_log_std_itself_stays_in_its_bounds_and_keeps_its_gradient(gradient_step, compile_cache):
    if gradient_step == "compiled" and obstacle() is not None:
        pytest.skip(str(obstacle()))
    model = R2VPO(
        "Pendulum-v1",
        num_envs=2,
        rollout_steps=32,
        minibatch_size=16,
        log_std_min=-0.01,
        log_std_init=0.0,
        log_std_max=0.01,
        learning_rate=0.05,
        lr_schedule="constant",
        gradient_step=gradient_step,
    )
    seen, step = [], model.learner.updater.step

    def watched(*arguments, **keywords):
        taken = step(*arguments, **keywords)
        seen.append(float(model.learner.policy.log_std.detach()))
        return taken

    model.learner.updater.step = watched
    model.learn(4 * 64)
    bound = float(torch.tensor(0.01))
    assert all(abs(value) <= bound for value in seen)
    # It has been at a bound, and has left it again.
    assert any(abs(value) == bound and after != value for value, after in pairwise(seen))


def test_monte_carlo_ratio_variance_of_two_policies_meets_the_closed_form():
    old, new = make_policy(0), make_policy(0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        new.log_std.add_(torch.tensor([0.05, -0.05, 0.02]))
        new.network[-1].bias.add_(torch.tensor([0.1, -0.05, 0.08]))
        observations = torch.randn(200_000, 5, generator=generator)
        noise = torch.randn(200_000, 3, generator=generator)
        actions = old.mean(observations) + old.bounded_log_std().exp() * noise
        batch = {"observations": observations, "actions": actions}
        log_ratio = new.log_prob(batch) - old.log_prob(batch)
        means = old.mean(observations), new.mean(observations)
        stds = old.bounded_log_std().exp(), new.bounded_log_std().exp()
        exact = gaussian_ratio_variance(means[0], stds[0], means[1], stds[1]).mean().item()
    squares = (log_ratio.double().exp() - 1).square()
    standard_error = squares.std().item() / len(squares) ** 0.5
    measured = ratio_diagnostics(log_ratio, torch.ones_like(log_ratio))["ratio_variance"]
    assert measured == pytest.approx(exact, abs=4 * standard_error)
    assert standard_error < 0.02 * exact


def test_networks_start_orthogonal_separate_and_seeded():
    hidden = mlp(5, (16, 16), 3, 0.01, torch.Generator().manual_seed(0))
    gram = hidden[2].weight @ hidden[2].weight.T
    torch.testing.assert_close(gram, 2.0 * torch.eye(16), atol=1e-5, rtol=0)
    assert hidden[4].weight.norm() < 0.02
    assert hidden[0].bias.abs().sum() == 0
    assert torch.equal(make_policy(3).network[0].weight, make_policy(3).network[0].weight)
    assert not torch.equal(make_policy(3).network[0].weight, make_policy(4).network[0].weight)
    policy = make_policy()
    value = ValueFunction(policy.normalizer, (16,), torch.Generator().manual_seed(0))
    shared = {id(p) for p in policy.parameters()} & {id(p) for p in value.parameters()}
    assert not shared
