"""The Stable-Baselines3 adapter: PPO's own steps with PPO's objective, the core's with ours, and replay."""

import importlib
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3", reason="needs stable-baselines3")

from small_envs import IdentityEnv
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import SimpleMultiObsEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from r2vpo.control.experiments.peers import PEERS, train_peer
from r2vpo.control.sb3 import R2VPO
from r2vpo.control.sb3.minibatch import MinibatchScorer
from r2vpo.control.sb3.replay import Reestimator, fresh_samples
from r2vpo.errors import CheckpointError, ConfigError, HostVersionError, TrainingDiverged
from r2vpo.objectives import make_objective
from r2vpo.update import minibatch_loss

SMALL = {
    "n_steps": 32,
    "batch_size": 16,
    "n_epochs": 2,
    "seed": 0,
    "device": "cpu",
    "policy_kwargs": {"net_arch": [16]},
}


class SpacesEnv(gym.Env):
    """Random observations, episodes that end both ways, and whatever spaces are asked for."""

    def __init__(self, observation_space, action_space, shift=0.0):
        self.observation_space, self.action_space, self.shift = observation_space, action_space, shift
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self._draw(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.steps += 1
        over, terminated = self.steps == 7, self.np_random.random() < 0.1
        return self._draw(), float(np.sum(action)), terminated, over and not terminated, {}

    def _draw(self):
        sample = self.observation_space.sample()
        return sample if isinstance(sample, dict | np.integer) else (sample + self.shift).astype(sample.dtype)


BOX = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
IMAGE = gym.spaces.Box(0, 255, (36, 36, 1), np.uint8)


def vec(env, n=2, normalize=False, **settings):
    venv = DummyVecEnv([lambda: Monitor(env())] * n)
    return VecNormalize(venv, **settings) if normalize else venv


def recorded(model):
    """Names and values that the model logs, in the order of the updates."""
    seen = []

    class Keep(Logger):
        def dump(self, step=0):
            seen.append(dict(self.name_to_value))
            super().dump(step)

    model.set_logger(Keep(None, []))
    return seen


def assert_same_parameters(first, second):
    for (name, one), (_, other) in zip(first.policy.named_parameters(), second.policy.named_parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}")


# -- PPO's own steps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env_id", "settings"),
    [
        ("CartPole-v1", {}),
        ("CartPole-v1", {"ent_coef": 0.01, "clip_range": lambda progress: 0.3 * progress, "batch_size": 24}),
        (
            "Pendulum-v1",
            {"clip_range_vf": 0.1, "max_grad_norm": 0.05, "learning_rate": lambda progress: 3e-3 * progress},
        ),
        ("Pendulum-v1", {"use_sde": True, "sde_sample_freq": 4, "normalize_advantage": False, "ent_coef": 0.1}),
        ("Pendulum-v1", {"target_kl": 1e-3, "learning_rate": 3e-3}),
    ],
)
def test_ppo_clip_without_replay_is_ppo(env_id, settings):
    models, logs = [], []
    for kind, own in ((PPO, {}), (R2VPO, {"objective": "ppo_clip"})):
        model = kind("MlpPolicy", make_vec_env(env_id, 2, seed=3), **{**SMALL, "n_epochs": 4, **settings, **own})
        logs.append(recorded(model))
        models.append(model.learn(5 * 64))
    assert_same_parameters(*models)
    assert models[0]._n_updates == models[1]._n_updates > 4
    theirs, ours = (log[-1] for log in logs)
    # PPO logs the losses of the minibatch that ends an update early; here that one has none.
    unequal = ("train/loss", "train/policy_gradient_loss") if "target_kl" in settings else ()
    for name in (key for key in theirs if key.startswith("train/") and key not in unequal):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-6, abs=1e-6), name
    assert ours["train/ratio_variance"] > 0
    assert "train/lam" not in ours  # clipping has none, and it stays where it was
    assert models[1].lam == 1.0


def test_the_default_objective_takes_other_steps_than_ppo():
    models = [kind("MlpPolicy", "CartPole-v1", **SMALL).learn(64) for kind in (PPO, R2VPO)]
    with pytest.raises(AssertionError):
        assert_same_parameters(*models)


# -- The core's loss ---------------------------------------------------------------------------------------------


def test_loss_and_gradient_are_those_of_equation_10():
    model = R2VPO("MlpPolicy", vec(IdentityEnv), lam=0.7, ent_coef=0.02, **SMALL)
    model.learn(64)
    policy, minibatch = model.policy, next(model.rollout_buffer.get(16))
    scored = MinibatchScorer(policy, True, 0.02, 0.5, 0.2, None, None)(minibatch)
    ours = minibatch_loss(make_objective("r2vpo"), scored, 16, lam=0.7)
    gradient = torch.autograd.grad(ours, list(policy.parameters()))

    values, log_prob, entropy = policy.evaluate_actions(minibatch.observations, minibatch.actions)
    ratio, advantage = (log_prob - minibatch.old_log_prob).exp(), minibatch.advantages
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    surrogate = ratio * advantage - 0.7 * (ratio - 1) ** 2
    by_hand = -surrogate.mean() + 0.5 * ((values.flatten() - minibatch.returns) ** 2).mean() - 0.02 * entropy.mean()
    assert (ratio - 1).abs().max() > 1e-3  # else the penalty would not be seen
    torch.testing.assert_close(ours, by_hand, rtol=1e-6, atol=1e-6)
    for one, other in zip(gradient, torch.autograd.grad(by_hand, list(policy.parameters())), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_lambda_moves_with_each_gradient_step_and_is_logged():
    model = R2VPO("MlpPolicy", vec(IdentityEnv), dual="paper", eta=1e-3, delta=0.5, lam=1.0, **SMALL)
    log = recorded(model)
    model.learn(2 * 64)
    # The ratio hardly moves in so short a run: lambda falls by about eta * delta at each of 2 * 4 * 2 steps.
    assert model.lam == pytest.approx(1.0 - 16 * 1e-3 * 0.5, abs=1e-4)
    assert log[-1]["train/lam"] == pytest.approx(1.0 - 8 * 1e-3 * 0.5, abs=1e-4)
    assert {"train/ratio_variance", "train/approx_kl", "train/clip_fraction", "train/std"} <= set(log[-1])


# -- Everything that SB3 users do --------------------------------------------------------------------------------


@pytest.mark.parametrize("buffer_iterations", [1, 3])
@pytest.mark.parametrize(
    ("policy", "observations", "actions"),
    [
        ("MlpPolicy", BOX, gym.spaces.Discrete(3)),
        ("MlpPolicy", gym.spaces.Discrete(5), gym.spaces.MultiDiscrete([2, 3])),
        ("MlpPolicy", gym.spaces.MultiBinary(4), gym.spaces.MultiBinary(3)),
        ("CnnPolicy", IMAGE, gym.spaces.Box(-2.0, 2.0, (2,), np.float32)),
        ("MultiInputPolicy", gym.spaces.Dict(image=IMAGE, vector=BOX, kind=gym.spaces.Discrete(4)), BOX),
    ],
)
def test_spaces_train_save_and_load(policy, observations, actions, buffer_iterations, tmp_path):
    def env():
        return SpacesEnv(observations, actions)

    settings = {**SMALL, "n_steps": 12, "policy_kwargs": {}, "buffer_iterations": buffer_iterations}
    model = R2VPO(policy, vec(env), **settings).learn(4 * 24)
    model.save(tmp_path / "model")
    loaded = R2VPO.load(tmp_path / "model", env=vec(env))
    observation = model.get_env().reset()
    np.testing.assert_array_equal(
        model.predict(observation, deterministic=True)[0], loaded.predict(observation, deterministic=True)[0]
    )
    loaded.learn(24, reset_num_timesteps=False)
    assert loaded.num_timesteps == 5 * 24


def test_callbacks_evaluation_and_hyper_parameter_dicts(tmp_path):
    hyper_parameters = {
        "policy": "MlpPolicy",
        "n_steps": 16,
        "batch_size": 8,
        "n_epochs": 1,
        "learning_rate": lambda p: 1e-3 * p,
        "ent_coef": 0.0,
    }
    model = R2VPO(env=vec(IdentityEnv, normalize=True), buffer_iterations=2, device="cpu", **hyper_parameters)
    checkpoints = CheckpointCallback(32, tmp_path, save_replay_buffer=True, save_vecnormalize=True)
    stop = StopTrainingOnMaxEpisodes(12)
    evaluation = EvalCallback(vec(IdentityEnv, 1, normalize=True, training=False), eval_freq=16, verbose=0)
    model.learn(10_000, callback=[checkpoints, stop, evaluation])
    assert model.num_timesteps == 12 * 2 * 10  # 12 episodes of 10 steps in each environment
    assert np.isfinite(evaluation.last_mean_reward)
    names = {path.name for path in tmp_path.iterdir()}
    assert {f"rl_model_{kind}64_steps.{end}" for kind, end in (("", "zip"), ("vecnormalize_", "pkl"))} <= names
    model.load_replay_buffer(tmp_path / "rl_model_replay_buffer_64_steps.pkl")
    assert model.replay_buffer.sizes == (32,)  # the rollout under way is not yet among them
    assert np.isfinite(evaluate_policy(model, model.get_env(), n_eval_episodes=2)[0])


def test_weights_and_files_of_ppo_fit(tmp_path):
    theirs = PPO("MlpPolicy", vec(IdentityEnv), **SMALL).learn(64)
    ours = R2VPO("MlpPolicy", vec(IdentityEnv), **{**SMALL, "seed": 5})
    ours.set_parameters(theirs.get_parameters())
    assert_same_parameters(theirs, ours)
    theirs.save(tmp_path / "ppo.zip")
    assert_same_parameters(theirs, R2VPO.load(tmp_path / "ppo.zip", env=vec(IdentityEnv), lam=0.3, buffer_iterations=2))
    ours.save(tmp_path / "r2vpo.zip")
    assert_same_parameters(theirs, PPO.load(tmp_path / "r2vpo.zip"))


@pytest.mark.parametrize("buffer_iterations", [1, 4])
def test_training_improves(buffer_iterations):
    settings = {"n_steps": 64, "batch_size": 64, "gamma": 0.5, "seed": 0, "device": "cpu", "learning_rate": 3e-3}
    model = R2VPO("MlpPolicy", vec(IdentityEnv, 4), buffer_iterations=buffer_iterations, **settings)
    before = evaluate_policy(model, vec(IdentityEnv, 1), 20)[0]
    model.learn(2_560)
    after = evaluate_policy(model, vec(IdentityEnv, 1), 20)[0]
    assert after > 0.6 * before  # about -10 at first; 0 is the best


# -- Replay ------------------------------------------------------------------------------------------------------


def shifted(normalize=True, **settings):
    # Far from standardised: whoever confuses raw with normalised observations sees it.
    return vec(lambda: SpacesEnv(BOX, BOX, shift=30.0), 3, normalize=normalize, **settings)


class Spy(R2VPO):
    """Keeps what each update was given."""

    def train(self):
        estimator = Reestimator(self.policy, self._vec_normalize_env, self.gamma, self.gae_lambda, self.trace_cap)
        self.policy.set_training_mode(False)
        self.fresh = fresh_samples(self.rollout_buffer)
        self.again = [estimator.samples(rollout) for rollout in self.replay_buffer.iterations]
        with torch.no_grad():
            _, log_prob, _ = self.policy.evaluate_actions(self.fresh.observations, self.fresh.actions)
        self.first_log_ratio = log_prob - self.fresh.old_log_prob
        super().train()


def test_the_ratio_is_one_on_the_fresh_rollout_under_a_moving_normalizer():
    model = Spy("MlpPolicy", shifted(), buffer_iterations=3, learning_rate=1e-2, **SMALL).learn(3 * 96)
    assert model.first_log_ratio.abs().max() < 1e-5
    # Under today's statistics it would not be: those moved at every step of the collection.
    moved = model.again[-1].observations - model.fresh.observations
    assert moved.abs().max() > 1e-2


def test_stored_observations_and_rewards_are_raw():
    model = Spy("MlpPolicy", shifted(), buffer_iterations=2, **SMALL).learn(96)
    (rollout,) = model.replay_buffer.iterations
    observations = rollout["observations/"]
    assert observations.shape == (32, 3, 3)
    assert 29 <= observations.min() < observations.max() <= 31
    # Each observation follows the one before it: the last one stored is followed by that of the environment.
    torch.testing.assert_close(rollout["last_observations/"].numpy(), model._vec_normalize_env.get_original_obs())
    final = rollout["final_observations/"]
    assert len(final) == rollout["truncated"].sum() > 0
    assert 29 <= final.min() < final.max() <= 31
    taken = rollout["actions"].clamp(-1, 1).sum(-1)
    torch.testing.assert_close(rollout["rewards"], taken, rtol=1e-5, atol=1e-5)


def test_an_old_rollout_under_the_policy_that_acted_is_estimated_as_sb3_does():
    # With statistics that stand still and a policy that has not changed, nothing is left to correct.
    env = shifted(training=False, gamma=0.9)
    env.obs_rms.mean, env.obs_rms.var, env.ret_rms.var = np.full(3, 30.0), np.full(3, 0.5), np.array(2.0)
    model = Spy("MlpPolicy", env, buffer_iterations=2, gamma=0.9, **SMALL).learn(96)
    for ours, theirs in zip(model.again[-1], model.fresh, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_traces_of_older_rollouts_are_weighted_by_capped_ratios():
    model = Spy("MlpPolicy", shifted(normalize=False), buffer_iterations=2, learning_rate=3e-2, **SMALL).learn(2 * 96)
    rollout = model.replay_buffer.iterations[0]
    few, many = (Reestimator(model.policy, None, 0.99, 0.95, trace_cap).samples(rollout) for trace_cap in (1e-6, 1.0))
    with torch.no_grad():
        values = model.policy.predict_values(rollout["observations/"].flatten(0, 1)).view(32, 3)
        final = torch.zeros(32, 3)
        final[rollout["truncated"]] = model.policy.predict_values(rollout["final_observations/"]).flatten()
    # Without traces only the temporal difference is left.
    following = torch.where(rollout["done"], final, torch.cat([values[1:], values[:1]]))
    difference = rollout["rewards"] + 0.99 * following - values
    torch.testing.assert_close(few.advantages.view(32, 3)[:-1], difference[:-1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(few.returns.view(32, 3), values, rtol=1e-4, atol=1e-4)
    assert (many.advantages - few.advantages).abs().max() > 0.1


def test_images_beside_normalised_vectors_are_replayed():
    # SB3 transposes images above VecNormalize; only the vector has a raw counterpart.
    env = vec(lambda: SimpleMultiObsEnv(random_start=False), normalize=True, norm_obs_keys=["vec"])
    model = R2VPO("MultiInputPolicy", env, buffer_iterations=2, **{**SMALL, "n_steps": 8, "policy_kwargs": {}})
    model.learn(3 * 16)
    assert model.replay_buffer.iterations[0]["observations/img"].shape[2:] == (1, 64, 64)
    stacked = VecFrameStack(VecNormalize(vec(IdentityEnv)), 2)
    with pytest.raises(ConfigError, match="VecNormalize last"):
        R2VPO("MlpPolicy", stacked, buffer_iterations=2, **SMALL).learn(64)


class Anchors(R2VPO):
    """Keeps the first minibatch of an update at either anchor, scored by the policy that it starts from."""

    def train(self):
        self.first = []
        for anchor in ("behaviour", "proximal"):
            self.anchor = anchor
            torch.manual_seed(len(self.replay_buffer))
            minibatch = next(iter(next(self._replayed_passes(self.replay_buffer))))
            with torch.no_grad():
                self.first.append((minibatch, MinibatchScorer(self.policy, True, 0.0, 0.5, 0.2, None, None)(minibatch)))
        super().train()


def test_at_the_proximal_anchor_the_ratio_starts_at_one_and_truncated_ratios_weigh_the_advantages():
    settings = {**SMALL, "n_steps": 64, "batch_size": 192}
    model = Anchors("MlpPolicy", shifted(), buffer_iterations=3, learning_rate=1e-2, **settings).learn(3 * 192)
    (first, behaviour), (second, proximal) = model.first
    assert torch.equal(first.actions, second.actions)
    torch.testing.assert_close(proximal.log_prob, proximal.old_log_prob, rtol=0, atol=1e-5)
    weight = (behaviour.log_prob - behaviour.old_log_prob).exp().clamp(max=1.0)
    assert weight.min() < 0.9
    torch.testing.assert_close(second.weights, weight, rtol=0, atol=1e-5)
    torch.testing.assert_close(proximal.advantage, behaviour.advantage * weight, rtol=1e-4, atol=1e-4)
    assert torch.equal(first.returns, second.returns)
    log = recorded(model)
    model.target_kl = 1e-4  # measured from where the update starts, it makes sense for samples of any age
    model.learn(2 * 192, reset_num_timesteps=False)
    assert 0 < log[-1]["train/gradient_steps"] < 12


def test_the_anchors_are_the_same_on_a_fresh_rollout():
    models = [
        R2VPO("MlpPolicy", shifted(), buffer_iterations=2, anchor=anchor, learning_rate=1e-2, **SMALL).learn(96)
        for anchor in ("behaviour", "proximal")
    ]
    assert_same_parameters(*models)
    for model in models:
        model.learn(96, reset_num_timesteps=False)
    with pytest.raises(AssertionError):
        assert_same_parameters(*models)


def test_gradient_steps_grow_to_the_update_to_data_ratio():
    model = R2VPO("MlpPolicy", vec(IdentityEnv), buffer_iterations=3, utd=3.0, **SMALL)
    log = recorded(model)
    model.learn(5 * 64)
    # 2 epochs of 4 minibatches; the fill of the buffer goes 0, 1/2, 1, 1 (the last update is logged by no rollout).
    assert [entry["train/gradient_steps"] for entry in log[1:]] == [8, 16, 24, 24]
    assert model.replay_buffer.sizes == (64, 64, 64)


def test_resuming_goes_on_with_lambda_buffer_and_statistics(tmp_path):
    def continued(model):
        model.set_random_seed(7)
        model.learn(2 * 96, reset_num_timesteps=False)
        return model

    first = R2VPO("MlpPolicy", shifted(), buffer_iterations=3, learning_rate=1e-2, **SMALL).learn(3 * 96)
    first.save(tmp_path / "model.zip")
    first.save_replay_buffer(tmp_path / "new folder" / "buffer.zip")
    first.get_env().save(tmp_path / "statistics.pkl")

    env = VecNormalize.load(tmp_path / "statistics.pkl", shifted(normalize=False))
    second = R2VPO.load(tmp_path / "model.zip", env=env)
    assert second.lam == first.lam != 1.0
    assert len(second.replay_buffer) == 0
    second.load_replay_buffer(tmp_path / "new folder" / "buffer.zip")
    for one, other in zip(first.replay_buffer.iterations, second.replay_buffer.iterations, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)

    first.set_env(VecNormalize.load(tmp_path / "statistics.pkl", shifted(normalize=False)))
    first, second = continued(first), continued(second)
    assert_same_parameters(first, second)
    assert first.lam == second.lam
    assert second.num_timesteps == 5 * 96


def test_the_buffer_can_travel_inside_the_model_file(tmp_path):
    model = R2VPO("MlpPolicy", vec(IdentityEnv), buffer_iterations=3, **SMALL).learn(3 * 64)
    model.save(tmp_path / "model.zip", include=["replay_buffer"])
    assert R2VPO.load(tmp_path / "model.zip").replay_buffer.sizes == (64, 64, 64)
    assert R2VPO.load(tmp_path / "model.zip", buffer_iterations=2).replay_buffer.sizes == (64, 64)
    assert R2VPO.load(tmp_path / "model.zip", buffer_iterations=1).replay_buffer is None


# -- Errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "ppo"}, "objective='ppo' is not allowed"),
        ({"dual": "slow"}, "dual='slow' is not allowed"),
        ({"lam": -1.0}, "lam=-1.0"),
        ({"delta": None}, "delta=None"),
        ({"buffer_iterations": 0}, "buffer_iterations=0"),
        ({"utd": 0.0}, "utd=0.0"),
        ({"anchor": "nearest"}, "anchor must be one of behaviour, proximal"),
        ({"objective_kwargs": {"lam": 1.0}}, "the setting lam is its place"),
        ({"objective": "onesided", "objective_kwargs": {"lam": 1.0}}, "the setting lam is its place"),
        ({"objective": "spo", "objective_kwargs": {"eps": -1.0}}, "eps=-1.0"),
        ({"buffer_iterations": 2, "target_kl": 0.1}, "target_kl=0.1"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        R2VPO("MlpPolicy", "CartPole-v1", device="cpu", **settings)


@pytest.mark.parametrize("objective", ["dppo", "m2po"])
def test_objectives_that_compare_probabilities_want_discrete_actions(objective):
    model = R2VPO("MlpPolicy", "CartPole-v1", device="cpu", objective=objective, n_steps=64, batch_size=32)
    model.learn(64)
    assert model.logger.name_to_value["train/ratio_variance"] > 0
    if objective == "dppo":
        with pytest.raises(ConfigError, match="no probability"):
            R2VPO("MlpPolicy", "Pendulum-v1", device="cpu", objective=objective)


def test_a_clip_range_that_has_no_effect_is_told():
    with pytest.warns(UserWarning, match="clip_range does not limit"):
        R2VPO("MlpPolicy", "CartPole-v1", device="cpu", clip_range=0.1)


def test_bad_buffer_files_are_told(tmp_path):
    model = R2VPO("MlpPolicy", vec(IdentityEnv), buffer_iterations=2, **SMALL).learn(64)
    model.save_replay_buffer(tmp_path / "buffer")
    other = R2VPO("MlpPolicy", vec(lambda: SpacesEnv(BOX, BOX)), buffer_iterations=2, **SMALL)
    with pytest.raises(CheckpointError, match=r"observations/ have shape \(2,\), not \(3,\)"):
        other.load_replay_buffer(tmp_path / "buffer")
    (tmp_path / "foreign").write_bytes(b"\x80\x04]\x94.")
    with pytest.raises(CheckpointError, match="foreign"):
        model.load_replay_buffer(tmp_path / "foreign")
    with pytest.raises(ConfigError, match="buffer_iterations=1"):
        R2VPO("MlpPolicy", vec(IdentityEnv), **SMALL).load_replay_buffer(tmp_path / "buffer")


def test_an_update_without_a_finite_step_stops_the_run():
    model = R2VPO("MlpPolicy", vec(IdentityEnv), vf_coef=float("nan"), **SMALL)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    with pytest.raises(TrainingDiverged, match="all 8 gradient steps"):
        model.learn(64)
    assert all(map(torch.equal, before, model.policy.parameters()))


def test_another_version_of_sb3_is_refused(monkeypatch):
    import r2vpo.control.sb3 as adapter

    monkeypatch.setattr("r2vpo.errors.version", lambda name: "2.8.0")
    with pytest.raises(HostVersionError, match=r"stable-baselines3 2\.8\.0 .*>=2\.9,<2\.10"):
        importlib.reload(adapter)


def test_the_packages_alone_do_not_import_sb3():
    code = "import sys, r2vpo.control, r2vpo.control.experiments.peers; sys.exit('stable_baselines3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["r2vpo-sb3", "r2vpo-sb3-off"])
def test_comparisons_can_include_it(name, monkeypatch):
    monkeypatch.setitem(PEERS[name].settings, "n_steps", 64)  # its default would take longer than a test should
    run = train_peer(name, IdentityEnv, seed=0, total_steps=128)
    assert run.config["class"] == "R2VPO"
    assert run.config.get("buffer_iterations") == (4 if name.endswith("off") else None)
    assert len(run.episodes.returns) == 12
    assert run.act(True)(np.zeros((5, 2), np.float32)).shape == (5, 2)
