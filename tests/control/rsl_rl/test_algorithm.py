"""The update inside rsl_rl: the core's loss and lambda, rsl_rl's everything else."""

import math
import statistics
import subprocess
import sys

import pytest
import torch

pytest.importorskip("rsl_rl", reason="rsl-rl-lib is not installed")

from rsl_rl_two_processes import (
    CASES,
    ENVS,
    ON_POLICY,
    STEPS,
    build,
    collect,
    identity_runner,
    mirror,
    results,
    rollout,
    settled,
    updated,
)
from rsl_rl_two_processes import __file__ as two_processes
from rsl_rl_two_processes import parameters as weights

from r2vpo.control.rsl_rl import DIAGNOSTICS, R2VPO
from r2vpo.control.rsl_rl.replay import fresh_samples
from r2vpo.errors import TrainingDiverged
from r2vpo.objectives import OBJECTIVES, OF_PROBABILITIES, make_objective


@pytest.mark.parametrize("objective", sorted(set(OBJECTIVES) - set(OF_PROBABILITIES)))
def test_a_step_follows_the_gradient_of_the_core(objective):
    algorithm = settled(
        build(
            objective=objective,
            optimizer="sgd",
            learning_rate=1.0,
            max_grad_norm=1e9,
            entropy_coef=0.0,
            value_loss_coef=0.0,
            num_mini_batches=1,
            num_learning_epochs=1,
            dual_lam=0.7,
            **ON_POLICY,
        )
    )
    collect(algorithm, rollout(1), off_policy=0.3)
    storage, actor = algorithm.storage, algorithm.actor
    before = [p.detach().clone() for p in actor.parameters()]
    actor(storage.observations.flatten(0, 1), stochastic_output=True)
    mean, std = actor.output_mean, actor.output_std
    deviation = (storage.actions.flatten(0, 1) - mean) / std
    log_prob = (-0.5 * deviation.square() - std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
    advantages = (storage.returns - storage.values).flatten()
    advantages = (advantages - advantages.mean()) / advantages.std()
    core = make_objective(objective)
    override = {"lam": 0.7} if core.uses_dual else {}
    expected = core(log_prob, storage.actions_log_prob.flatten(), advantages, **override).mean()
    gradients = torch.autograd.grad(expected, list(actor.parameters()))
    losses = algorithm.update()
    assert losses["surrogate"] == pytest.approx(expected.item(), abs=1e-6)
    for old, new, gradient in zip(before, actor.parameters(), gradients, strict=True):
        torch.testing.assert_close(old - new, gradient, atol=1e-6, rtol=1e-5)
    assert max(float(g.abs().max()) for g in gradients) > 1e-2


@pytest.mark.parametrize("clipped", [True, False])
@pytest.mark.parametrize("per_minibatch", [True, False])
def test_with_its_objective_and_without_replay_it_is_rsl_rls_ppo(clipped, per_minibatch):
    shared = {
        "num_mini_batches": 4,
        "num_learning_epochs": 1,
        "use_clipped_value_loss": clipped,
        "clip_param": 0.1,
        "normalize_advantage_per_mini_batch": per_minibatch,
        "entropy_coef": 0.01,
        "max_grad_norm": 0.3,
        "schedule": "fixed",
    }
    host = settled(build(class_name="PPO", **shared))
    adapter = settled(build(objective="ppo_clip", **ON_POLICY, **shared))
    found = []
    for algorithm in (host, adapter):
        torch.manual_seed(3)
        found.append(updated(algorithm, seeds=[1, 2]))
    torch.testing.assert_close(weights(host), weights(adapter), atol=2e-6, rtol=1e-5)
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, abs=1e-5), name


def test_the_ratio_is_exactly_one_before_the_first_step_on_fresh_data(monkeypatch):
    runner = identity_runner(num_learning_epochs=2, num_mini_batches=4)
    algorithm, fresh = runner.alg, []
    original = algorithm.update

    def update():
        samples = fresh_samples(algorithm.storage)
        for index in torch.randperm(len(samples)).split(80):
            minibatch = samples[index]
            with torch.no_grad():
                log_prob = algorithm._log_prob(minibatch["observations"], minibatch["actions"])
            fresh.append(log_prob - minibatch["old_log_prob"])
        return original()

    monkeypatch.setattr(algorithm, "update", update)
    runner.learn(4)
    ratios = torch.cat(fresh).exp()
    assert len(ratios) == 4 * 320
    assert torch.equal(ratios, torch.ones_like(ratios))
    assert int(algorithm.actor.obs_normalizer.count) == 4 * 320  # each new observation is counted once


def test_a_normalizer_that_moves_before_the_update_would_be_seen():
    algorithm = settled(build(num_mini_batches=1, num_learning_epochs=1, learning_rate=0.0, **ON_POLICY))
    collect(algorithm, rollout(1))
    settled(algorithm, seed=5)
    assert algorithm.update()["ratio_variance"] > 1e-5


def test_training_through_the_runner_improves_and_logs(tmp_path):
    runner = identity_runner(tmp_path, learning_rate=3e-3, num_learning_epochs=4, entropy_coef=0.0)
    runner.learn(2)
    first = statistics.mean(runner.logger.rewbuffer)
    runner.learn(18)
    assert statistics.mean(runner.logger.rewbuffer) > first + 5.0
    assert sorted(path.suffix for path in tmp_path.glob("model_*")) == [".pt"] * 3
    assert list(tmp_path.glob("events*"))


def test_update_reports_losses_and_diagnostics():
    losses = updated(build(num_mini_batches=2), seeds=range(2))
    by_age = {"ratio_variance_age_0", "ratio_variance_age_1"}
    assert set(losses) == {"value", "surrogate", "entropy", *DIAGNOSTICS, *by_age}
    assert all(isinstance(value, float) and math.isfinite(value) for value in losses.values())


def test_steps_follow_the_fill_of_the_buffer():
    algorithm, steps = build(num_mini_batches=2, num_learning_epochs=3, buffer_iterations=3, utd=2.0), []
    original = algorithm.updater.step
    algorithm.updater.step = lambda *arguments: steps.append(1) or original(*arguments)
    counts = []
    for seed in range(4):
        updated(algorithm, [seed])
        counts.append(len(steps) - sum(counts))
    assert counts == [6, 9, 12, 12]
    assert len(algorithm.replay) == 3 * STEPS * ENVS


def test_lambda_moves_as_the_dual_controller_moves():
    fixed = build(dual="fixed", delta=None, dual_lam=0.04)
    assert updated(fixed, range(2))["lam"] == 0.04
    tight = build(delta=1e-6)
    assert updated(tight, range(2))["lam"] > 1.0
    assert tight.lam == 0.95  # the trace decay keeps its name


def test_steps_that_are_not_finite_stop_the_run():
    algorithm = build()
    data = rollout(0)
    data["rewards"][0, 0] = math.nan
    collect(algorithm, data)
    before = weights(algorithm)
    with pytest.raises(TrainingDiverged):
        algorithm.update()
    assert torch.equal(weights(algorithm), before)


def test_mixed_precision_leaves_the_ratio_alone():
    algorithm = settled(build(use_mixed_precision=True, num_mini_batches=1, num_learning_epochs=1, **ON_POLICY))
    losses = updated(algorithm, [1], off_policy=0.0)
    # Not 0: a batch of another size may be multiplied in another order. bfloat16 would leave 1e-5.
    assert losses["ratio_variance"] < 1e-12
    assert losses["skipped_steps"] == 0


def test_rnd_trains_its_predictor():
    rnd = {"weight": 0.1, "num_outputs": 4, "predictor_hidden_dims": [8], "target_hidden_dims": [8]}
    runner = identity_runner(rnd_cfg=rnd, steps=5)
    before = [p.detach().clone() for p in runner.alg.rnd.predictor.parameters()]
    runner.learn(2)
    assert any(
        not torch.equal(old, new) for old, new in zip(before, runner.alg.rnd.predictor.parameters(), strict=True)
    )


def test_the_mirror_loss_makes_the_policy_symmetric():
    def asymmetry(**symmetry):
        algorithm = build(
            symmetry_cfg={"data_augmentation_func": mirror, **symmetry}, learning_rate=1e-2, num_learning_epochs=10
        )
        losses = updated(algorithm, range(2))
        return losses["symmetry"]

    assert asymmetry(use_mirror_loss=True, mirror_loss_coeff=10.0) < 0.5 * asymmetry()


def test_parameters_that_actor_and_critic_share_are_stepped_once():
    model = build().actor
    algorithm = R2VPO(model, model, build().storage)
    (group,) = algorithm.optimizer.param_groups
    assert len(group["params"]) == len(list(model.parameters()))


def test_two_processes_agree_and_equal_one_with_all_the_data(tmp_path):
    outputs = [tmp_path / f"{rank}.pt" for rank in range(2)]
    running = [
        subprocess.Popen([sys.executable, two_processes, str(rank), "2", str(tmp_path / "init"), str(outputs[rank])])
        for rank in range(2)
    ]
    expected = results()
    assert [process.wait(120) for process in running] == [0, 0]
    first, second = (torch.load(output) for output in outputs)
    for name in CASES:
        assert torch.equal(first[name]["parameters"], second[name]["parameters"]), name
        assert first[name]["lam"] == second[name]["lam"] != 1.0
        assert first[name]["ratio_variance"] == second[name]["ratio_variance"]
        if name != "replay":  # where ranks draw minibatches of their own
            torch.testing.assert_close(first[name]["parameters"], expected[name]["parameters"], atol=1e-5, rtol=1e-5)
            assert first[name]["lam"] == pytest.approx(expected[name]["lam"], abs=1e-5)
