"""The rsl_rl adapter: the core's loss, rsl_rl's everything else, and lambda and replay across checkpoints and ranks."""

import importlib
import math
import statistics
import subprocess
import sys
import warnings

import pytest
import torch

pytest.importorskip("rsl_rl", reason="rsl-rl-lib is not installed")

from rsl_rl.runners import OnPolicyRunner
from rsl_rl_two_processes import CASES, ENVS, MODEL, STEPS, build, collect, results, rollout, runner_config, updated
from rsl_rl_two_processes import __file__ as two_processes
from rsl_rl_two_processes import parameters as weights
from small_envs import CountingEnv, IdentityEnv
from tensordict import TensorDict

from r2vpo.control.rsl_rl import DIAGNOSTICS, R2VPO
from r2vpo.control.rsl_rl.env import GymnasiumVecEnv
from r2vpo.control.rsl_rl.replay import fresh_samples, replayed_samples, stored_rollout
from r2vpo.errors import CheckpointError, ConfigError, HostVersionError, TrainingDiverged
from r2vpo.objectives import OBJECTIVES, make_objective

ON_POLICY = {"buffer_iterations": 1, "utd": 1.0}
ISAAC_LAB = {  # what its configurations and those of mjlab carry
    "num_learning_epochs": 5,
    "num_mini_batches": 4,
    "learning_rate": 1e-3,
    "schedule": "adaptive",
    "gamma": 0.99,
    "lam": 0.95,
    "entropy_coef": 0.005,
    "desired_kl": 0.01,
    "max_grad_norm": 1.0,
    "optimizer": "adam",
    "value_loss_coef": 1.0,
    "use_clipped_value_loss": True,
    "clip_param": 0.2,
    "normalize_advantage_per_mini_batch": False,
    "share_cnn_encoders": False,
    "rnd_cfg": None,
    "symmetry_cfg": None,
}


def identity_runner(log_dir=None, num_envs=16, steps=20, **algorithm):
    torch.manual_seed(0)
    config = runner_config(steps, **algorithm)
    return OnPolicyRunner(GymnasiumVecEnv(IdentityEnv, num_envs), config, log_dir and str(log_dir))


def settled(algorithm, seed=0):
    """The algorithm with normalizers that have seen a rollout."""
    data = rollout(seed)["observations"].flatten(0, 1)
    for model in (algorithm.actor, algorithm.critic):
        model.update_normalization(TensorDict({"policy": data}, batch_size=[len(data)]))
    return algorithm


# The loss


@pytest.mark.parametrize("objective", OBJECTIVES)
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
    override = {"lam": 0.7} if objective == "r2vpo" else {}
    expected = make_objective(objective)(log_prob, storage.actions_log_prob.flatten(), advantages, **override).mean()
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


# The ratio


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


def test_replayed_samples_keep_the_log_probs_of_the_policy_that_acted():
    algorithm = settled(build(num_mini_batches=2, num_learning_epochs=4, learning_rate=3e-3))
    stored = []
    for seed in range(3):
        collect(algorithm, rollout(seed))
        stored.append(algorithm.storage.actions_log_prob.flatten().clone())
        losses = algorithm.update()
    kept = [iteration["old_log_prob"].flatten() for iteration in algorithm.replay.iterations]
    assert all(torch.equal(x, y) for x, y in zip(stored, kept, strict=True))
    ages = [losses[f"ratio_variance_age_{age}"] for age in range(3)]
    assert 0 < ages[0] < ages[2]


# Advantages


def test_replayed_samples_of_an_unchanged_policy_are_rsl_rls_own():
    algorithm = settled(build(gamma=0.9, lam=0.8))
    collect(algorithm, rollout(1))
    fresh = fresh_samples(algorithm.storage)
    iteration = stored_rollout(algorithm.storage, algorithm._time_outs, algorithm._last_observations, 0.9)
    torch.testing.assert_close(iteration["rewards"], rollout(1)["rewards"], atol=1e-6, rtol=1e-6)
    assert rollout(1)["time_outs"].any()
    with torch.no_grad():
        again = replayed_samples(
            iteration, algorithm._log_prob, algorithm._value, gamma=0.9, gae_lambda=0.8, trace_cap=1.0
        )
    for name in ("actions", "old_log_prob", "values", "returns", "advantages"):
        torch.testing.assert_close(again[name], fresh[name], atol=1e-5, rtol=1e-5)
    assert torch.equal(again["observations"]["policy"], fresh["observations"]["policy"])


def test_stale_traces_are_weighted_by_hand():
    """Two steps, V = (1, 2), V after them 3, rewards (1, 1), ratios (0.5, 2), gamma 0.5, GAE lambda 1.

    d = (1 + 0.5 * 2 - 1, 1 + 0.5 * 3 - 2) = (1, 0.5); A_1 = 0.5; A_0 = 1 + 0.5 min(1, 2) 0.5 = 1.25;
    targets V + min(1, rho) A = (1 + 0.5 * 1.25, 2 + 0.5).
    """
    zeros = torch.zeros(2, 1)
    iteration = {
        "actions": torch.zeros(2, 1, 1),
        "old_log_prob": zeros,
        "rewards": zeros + 1,
        "done": zeros.bool(),
        "time_outs": zeros.bool(),
        "observations/policy": torch.tensor([[[1.0]], [[2.0]]]),
        "last_observations/policy": torch.tensor([[3.0]]),
    }
    samples = replayed_samples(
        iteration,
        lambda observations, actions: torch.tensor([0.5, 2.0]).log(),
        lambda observations: observations["policy"].squeeze(-1),
        gamma=0.5,
        gae_lambda=1.0,
        trace_cap=1.0,
    )
    torch.testing.assert_close(samples["advantages"], torch.tensor([1.25, 0.5]))
    torch.testing.assert_close(samples["returns"], torch.tensor([1.625, 2.5]))


# The runner


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
    assert losses["ratio_variance"] == 0.0
    assert losses["skipped_steps"] == 0


# Extensions of rsl_rl


def test_rnd_trains_its_predictor():
    rnd = {"weight": 0.1, "num_outputs": 4, "predictor_hidden_dims": [8], "target_hidden_dims": [8]}
    runner = identity_runner(rnd_cfg=rnd, steps=5)
    before = [p.detach().clone() for p in runner.alg.rnd.predictor.parameters()]
    runner.learn(2)
    assert any(
        not torch.equal(old, new) for old, new in zip(before, runner.alg.rnd.predictor.parameters(), strict=True)
    )


def mirror(env, obs, actions):
    """Everything with the opposite sign."""
    mirrored = None
    if obs is not None:
        both = torch.cat([obs["policy"], -obs["policy"]])
        mirrored = TensorDict({"policy": both}, batch_size=[len(both)])
    return mirrored, None if actions is None else torch.cat([actions, -actions])


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


# Settings


def test_a_configuration_of_isaac_lab_works_and_warns_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        algorithm = build(**ISAAC_LAB)
        losses = updated(algorithm, range(2))
    (warning,) = [w for w in caught if "R2VPO" in str(w.message)]
    assert "schedule='adaptive'" in str(warning.message)
    assert "0.001" in str(warning.message)
    assert algorithm.schedule == "fixed"
    assert algorithm.learning_rate == 1e-3
    assert losses["skipped_steps"] == 0


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"schedule": "cosine"}, "schedule"),
        ({"objective": "trpo"}, "objective"),
        ({"dual": "newton"}, "dual"),
        ({"dual_lam": -1.0}, "dual_lam"),
        ({"dual_lam": 0.0}, "dual_lam"),
        ({"delta": None}, "delta"),
        ({"eta": 0.0}, "eta"),
        ({"buffer_iterations": 0}, "buffer_iterations"),
        ({"utd": 0}, "utd"),
        ({"trace_cap": 0.0}, "trace_cap"),
        ({"save_buffer": 1}, "save_buffer"),
        ({"eps": 0.2}, "eps"),
        ({"clip_ratio": 0.2}, "clip_ratio"),
        ({"symmetry_cfg": {"data_augmentation_func": mirror, "use_data_augmentation": True}}, "symmetry_cfg"),
        ({"model": {**MODEL, "class_name": "RNNModel", "rnn_type": "gru"}}, "actor"),
    ],
)
def test_settings_that_are_refused(settings, field):
    with pytest.raises(ConfigError) as caught:
        build(**settings)
    assert caught.value.field.startswith(field)


# Checkpoints


@pytest.mark.parametrize("save_buffer", [True, False])
def test_a_checkpoint_resumes_with_lambda_and_buffer(tmp_path, save_buffer):
    settings = {"num_mini_batches": 2, "num_learning_epochs": 2, "delta": 1e-3, "save_buffer": save_buffer}
    runner = identity_runner(**settings)
    runner.learn(3)
    runner.save(str(tmp_path / "model.pt"))
    resumed = identity_runner(**settings)
    resumed.load(str(tmp_path / "model.pt"))
    assert resumed.alg.updater.dual.lam == runner.alg.updater.dual.lam != 1.0
    assert len(resumed.alg.replay.sizes) == (3 if save_buffer else 0)
    assert resumed.current_learning_iteration == 2
    data = torch.load(tmp_path / "model.pt", weights_only=True)  # plain tensors: no code runs on loading
    assert ("replay_state_dict" in data) == save_buffer
    if save_buffer:
        for uninterrupted, again in zip(runner.alg.replay.iterations, resumed.alg.replay.iterations, strict=True):
            assert all(torch.equal(values, again[name]) for name, values in uninterrupted.items())


def test_a_resumed_run_takes_the_same_next_update():
    def continued(interrupt):
        algorithm = build(num_mini_batches=2)
        updated(algorithm, range(3))
        if interrupt:
            saved = algorithm.save()
            algorithm = build(num_mini_batches=2)
            algorithm.load(saved, None, True)
        torch.manual_seed(9)
        return updated(algorithm, [7]), weights(algorithm)

    (losses, expected), (again, found) = continued(False), continued(True)
    assert torch.equal(expected, found)
    assert losses == again


def test_settings_win_over_a_checkpoint_and_parts_can_be_left_out():
    first = build(delta=1e-3)
    updated(first, range(2))
    other = build(delta=0.2)
    other.load(first.save(), {"actor": True, "critic": True}, True)
    assert (other.updater.dual.lam, len(other.replay)) == (1.0, 0)
    other.load(first.save(), {"actor": True, "dual": True}, True)
    assert (other.updater.dual.lam, other.updater.dual.delta) == (first.updater.dual.lam, 0.2)
    fixed = build(dual="fixed", dual_lam=0.3)
    fixed.load(first.save(), None, True)
    assert fixed.updater.dual.lam == 0.3


def test_a_checkpoint_of_ppo_loads():
    host = build(class_name="PPO", schedule="fixed")
    updated(host, range(2))
    algorithm = build()
    assert algorithm.load(host.save(), None, True)
    assert torch.equal(weights(algorithm), weights(host))
    assert algorithm.updater.dual.lam == 1.0


def test_a_buffer_of_other_observations_is_refused():
    algorithm = build()
    updated(algorithm, [0])
    saved = algorithm.save()
    rollout_of_another = saved["replay_state_dict"]["iterations"][0]
    rollout_of_another["observations/policy"] = rollout_of_another["observations/policy"][..., :3]
    with pytest.raises(CheckpointError, match="without 'replay'"):
        build().load(saved, None, True)


# The environments


@pytest.mark.parametrize(("end", "time_outs"), [("terminate", False), ("truncate", True)])
def test_episodes_end_and_begin_in_one_step(end, time_outs):
    env = GymnasiumVecEnv(lambda: CountingEnv(length=3, end=end), 2)
    assert env.get_observations()["policy"].shape == (2, 1)
    for _ in range(2):
        seen = [env.step(torch.zeros(2, 1)) for _ in range(3)]
        assert [int(dones[0]) for _, _, dones, _ in seen] == [0, 0, 1]
        assert [bool(extras["time_outs"][0]) for *_, extras in seen] == [False, False, time_outs]
        assert torch.equal(env.get_observations()["policy"], seen[-1][0]["policy"])
        assert env.episode_length_buf.tolist() == [0, 0]


def test_actions_are_clipped_for_the_environment_only():
    env = GymnasiumVecEnv(IdentityEnv, 1)
    state = env.get_observations()["policy"][0]
    actions = torch.tensor([[5.0, -5.0]])
    _, rewards, _, _ = env.step(actions)
    assert float(rewards[0]) == pytest.approx(-float((torch.tensor([1.0, -1.0]) - state).abs().sum()), abs=1e-6)
    assert actions.tolist() == [[5.0, -5.0]]


def test_mujoco_tasks_know_their_time_limit():
    env = GymnasiumVecEnv("Hopper-v5", 2)
    assert (env.max_episode_length, env.num_actions, env.envs.engine) == (1000, 3, "native")
    observations, rewards, dones, _ = env.step(torch.zeros(2, 3))
    assert observations["policy"].dtype == rewards.dtype == torch.float32
    assert dones.tolist() == [0, 0]
    env.close()


# Versions and processes


def test_another_version_is_refused_with_the_supported_range(monkeypatch):
    import r2vpo.control.rsl_rl as module

    monkeypatch.setattr("r2vpo.errors.version", lambda name: "3.1.0")
    with pytest.raises(HostVersionError, match=r"rsl-rl-lib 3\.1\.0 .*>=5\.5,<5\.6.*r2vpo\[rsl-rl\]"):
        importlib.reload(module)


def test_the_package_alone_does_not_load_rsl_rl():
    code = "import r2vpo, r2vpo.control, r2vpo.processes, sys; sys.exit('rsl_rl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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
