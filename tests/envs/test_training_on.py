"""Training on environments as users write them: their buffers, spaces, wrappers and numbers change no result."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.wrappers import FlattenObservation, TransformObservation
from small_envs import BufferedEnv, IdentityEnv

from r2vpo.control import R2VPO
from r2vpo.control.pictures import record_video
from r2vpo.errors import ConfigError, EnvironmentFailure, TrainingDiverged
from r2vpo.runs.checkpoint import load_tree, save_tree

SMALL = {"num_envs": 2, "rollout_steps": 24, "minibatch_size": 16, "epochs": 1, "eval_episodes": 0}
ITERATION = 48


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.policy.parameters()])


def outcome(model):
    """All that a training leaves, as far as one can see it."""
    result = weights(model).tolist(), model.episodes.returns, model.evaluate(3)
    model.close()
    return result


class Evaluating:
    """Evaluates in the middle of training."""

    def __init__(self):
        self.seen = []

    def __call__(self, locals_, globals_):
        if locals_["self"].num_timesteps == 60:
            self.seen.append(locals_["self"].evaluate(2))
        return True


@pytest.mark.parametrize("overlap", [False, True])
def test_buffers_that_the_environment_overwrites_change_nothing(overlap):
    fresh, reused = Evaluating(), Evaluating()
    settings = {**SMALL, "overlap": overlap}
    expected = outcome(R2VPO(IdentityEnv, **settings).learn(3 * ITERATION, callback=fresh))
    assert outcome(R2VPO(BufferedEnv, **settings).learn(3 * ITERATION, callback=reused)) == expected
    assert len(expected[1]) > 4
    assert fresh.seen == reused.seen


def test_one_object_with_a_buffer_is_trained_on_and_evaluated_alike():
    settings = {**SMALL, "num_envs": 1}
    made = [env for kind in (IdentityEnv, BufferedEnv) for env in (kind(),)]
    first, second = (outcome(R2VPO(env, **settings).learn(72)) for env in made)
    shared = BufferedEnv()
    assert outcome(R2VPO(lambda: shared, **settings).learn(72)) == first == second


class Reshaped(IdentityEnv):
    """The same task with observations of whole numbers in two rows, and actions of two columns and a row."""

    observation_space = Box(-1000, 1000, (2, 1), np.int16)
    action_space = Box(-1.0, 1.0, (1, 2), np.float32)

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        return self._reshaped(observation), info

    def step(self, action):
        assert action.shape == (1, 2)
        observation, *others = super().step(action[0])
        return self._reshaped(observation), *others

    def _reshaped(self, observation):
        return np.round(1000 * observation).astype(np.int16).reshape(2, 1)


class Rounded(Reshaped):
    """The same numbers in flat arrays of floats."""

    observation_space = Box(-1000.0, 1000.0, (2,), np.float32)
    action_space = Box(-1.0, 1.0, (2,), np.float32)

    def step(self, action):
        return super().step(action[None])

    def _reshaped(self, observation):
        return super()._reshaped(observation).ravel().astype(np.float32)


@pytest.mark.parametrize("bounds", ["rescale", "tanh"])
def test_spaces_of_other_shapes_and_kinds_are_those_of_the_same_numbers_flat(bounds, tmp_path):
    settings = {**SMALL, "action_bounds": bounds}
    model = R2VPO(Reshaped, run_dir=tmp_path / "run", **settings).learn(ITERATION)
    assert model.observation_space == Reshaped.observation_space
    observation = np.array([[500], [-20]], np.int16)
    one, several = model.predict(observation, deterministic=True)[0], model.predict(observation[None].repeat(3, 0))[0]
    assert one.shape == (1, 2)
    assert several.shape == (3, 1, 2)
    with pytest.raises(ValueError, match=r"observation has shape \(2,\), the policy takes \[2, 1\] or \[N, 2, 1\]"):
        model.predict(observation.ravel())
    flat = R2VPO(Rounded, **settings).learn(ITERATION)
    assert flat.predict(observation.ravel(), deterministic=True)[0].tolist() == one[0].tolist()
    model.close()
    resumed, loaded = R2VPO.resume(tmp_path / "run", env=Reshaped), R2VPO.load(tmp_path / "run", env=Reshaped)
    assert loaded.observation_space.dtype == np.int16
    for again in (resumed, flat):
        again.learn(ITERATION, reset_num_timesteps=False)
    assert outcome(resumed) == outcome(flat)
    with pytest.raises(ConfigError, match=r"observation space of .*\(2, 1\).*int16.*this one has Box.*\(2,\)"):
        R2VPO.load(tmp_path / "run", env=Rounded)


@pytest.mark.parametrize(
    "space",
    [Box(0, 255, (4, 4, 3), np.uint8), Box(-1, 1, (), np.float64), Box(0, 1, (3,), bool), Box(-9, 9, (2,), np.int64)],
    ids=str,
)
def test_a_box_of_any_numbers_is_observed(space):
    class Sees(IdentityEnv):
        observation_space = space

        def reset(self, *, seed=None, options=None):
            space.seed(seed)
            super().reset(seed=seed)
            return space.sample(), {}

        def step(self, action):
            _, *others = super().step(action)
            return space.sample(), *others

    model = R2VPO(Sees, **SMALL).learn(ITERATION)
    assert model.policy.normalizer.count == ITERATION
    assert len(model.evaluate(2).returns) == 2
    assert model.predict(space.sample())[0].shape == (2,)


SPACES = {
    "dict": gym.spaces.Dict({"a": Box(-1.0, 1.0, (2,)), "b": gym.spaces.Discrete(3)}),
    "tuple": gym.spaces.Tuple((Box(-1.0, 1.0, (2, 2)), gym.spaces.MultiBinary(2))),
    "discrete": gym.spaces.Discrete(4),
    "many": gym.spaces.MultiDiscrete([2, 3]),
    "text": gym.spaces.Text(3),
}


@pytest.mark.parametrize("name", SPACES)
def test_the_advice_for_other_observation_spaces_works(name):
    class Sees(gym.Env):
        observation_space, action_space = SPACES[name], Box(-1.0, 1.0, (2,))

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.observation_space.seed(0)
            return self.observation_space.sample(), {}

        def step(self, action):
            return self.observation_space.sample(), 0.0, False, self.np_random.random() < 0.2, {}

    with pytest.raises(ConfigError, match=r"observation_space=.*FlattenObservation makes one of it.*\(in Sees\)"):
        R2VPO(Sees, **SMALL)
    assert R2VPO(lambda: FlattenObservation(Sees()), **SMALL).learn(ITERATION).evaluate(1).lengths


def having(**spaces):
    return type("Having", (IdentityEnv,), spaces)


class WrapsNothing(gym.Wrapper):
    def __init__(self):
        pass


class Bare(gym.Env):
    observation_space = Box(-1.0, 1.0, (2,))


def fails():
    raise RuntimeError("no display")


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (having(observation_space=gym.spaces.Sequence(Box(-1, 1, (2,)))), r"observation_space=.*a Box \(in Having\)"),
        (having(observation_space=Box(-1, 1, (0,))), "observation_space=.* of at least one number"),
        (having(observation_space=None), "observation_space=None"),
        (having(action_space=gym.spaces.Discrete(3)), "action_space=.*a Gaussian policy has continuous actions"),
        (having(action_space=gym.spaces.MultiBinary(3)), "action_space=.*continuous"),
        (having(action_space=Box(0, 9, (2,), np.int32)), "action_space=.*continuous"),
        (having(action_space=gym.spaces.Dict(a=Box(-1, 1, (2,)))), "action_space=.*a Box of floats"),
        (having(action_space=Box(-1, 1, (2, 0))), r"action_space=.* of at least one number"),
        (gym.Env, r"observation_space=None .*\(in Env\)"),
        (gym.Env(), r"observation_space=None .*\(in Env\)"),
        (Bare, "action_space=None"),
        (gym.Wrapper, "env='Wrapper' .*missing a required argument"),
        (WrapsNothing, "env='WrapsNothing' .*one of its wrappers has none inside"),
        (WrapsNothing(), "env='WrapsNothing' .*one of its wrappers has none inside"),
        (dict, r"env='dict' .*this one returned \{\}"),
        (3, "env=3 .*num_envs of them are made here"),
        (fails, "env='fails' .*RuntimeError: no display"),
        (lambda: gym.make_vec("Pendulum-v1", 2), "this one returned SyncVectorEnv"),
        (gym.spec("Pendulum-v1"), "env=EnvSpec"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_with_the_reason(env, said):
    with pytest.raises(ConfigError, match=said):
        R2VPO(env, **(SMALL if not isinstance(env, gym.Env) else {}))


FLOAT32 = np.finfo(np.float32).max


@pytest.mark.parametrize(
    ("low", "high", "kinds"),
    [
        (-np.inf, np.inf, {"tanh"}),
        (0.0, np.inf, {"tanh"}),
        (-FLOAT32, FLOAT32, {"tanh", "rescale"}),
        (-FLOAT32, 0.0, {"tanh", "rescale"}),
        ([-1.0, -np.inf], [1.0, np.inf], {"tanh"}),
        (-100.0, 1e6, set()),
    ],
)
@pytest.mark.filterwarnings("error")
def test_bounds_of_actions_that_a_setting_cannot_have(low, high, kinds):
    space = Box(np.broadcast_to(low, 2).astype(np.float32), np.broadcast_to(high, 2).astype(np.float32))
    env = having(action_space=space, step=lambda self, action: (self._draw(), 0.0, False, False, {}))
    for kind in ("rescale", "clip", "tanh"):
        if kind in kinds:
            with pytest.raises(ConfigError, match=f"action_bounds='{kind}' .*clip where.*Box"):
                R2VPO(env, action_bounds=kind, **SMALL)
        else:
            model = R2VPO(env, action_bounds=kind, **SMALL).learn(ITERATION)
            assert space.contains(model.predict(np.zeros(2))[0].astype(np.float32))


def test_actions_of_a_policy_that_are_not_finite_are_not_blamed_on_the_environment():
    model = R2VPO(IdentityEnv, **SMALL)
    with torch.no_grad():
        model.policy.network[0].weight[0, 0] = np.nan
    for act in (lambda: model.learn(ITERATION), lambda: model.evaluate(1)):
        with pytest.raises(TrainingDiverged, match=r"the policy's action for environment 0 .*\(IdentityEnv\)"):
            act()


def far(offset):
    """Observations that float32 cannot tell apart."""
    space = Box(-np.inf, np.inf, (2,), np.float64)
    return lambda: TransformObservation(IdentityEnv(), lambda o: o.astype(np.float64) + offset, space)


@pytest.mark.parametrize("overlap", [False, True])
def test_observations_far_from_zero_are_told_apart(overlap, tmp_path):
    offset = np.array([1.7e9, -3e5])
    model = R2VPO(far(offset), run_dir=tmp_path / "run", **{**SMALL, "overlap": overlap}).learn(2 * ITERATION)
    model.close()
    states = np.linspace(-1.0, 1.0, 21)[:, None].repeat(2, 1)
    assert np.ptp((states + offset).astype(np.float32)[:, 0]) == 0.0
    normalizer = model.policy.normalizer
    seen = normalizer(torch.from_numpy(normalizer.relative(states + offset))).numpy()
    # Uniform between -1 and 1: a standard deviation of 0.58, so that the ends are 3.5 deviations apart.
    assert np.ptp(seen, axis=0) == pytest.approx([3.46, 3.46], rel=0.15)
    np.testing.assert_allclose(np.diff(seen, axis=0), np.ptp(seen, axis=0)[None].repeat(20, 0) / 20, rtol=1e-3)
    actions = model.predict(states + offset, deterministic=True)[0]
    assert len(np.unique(actions[:, 0])) == 21
    again = R2VPO.load(tmp_path / "run", env=far(offset))
    assert again.predict(states + offset, deterministic=True)[0].tolist() == actions.tolist()


def test_observations_near_zero_are_taken_as_they_are():
    model = R2VPO(far(np.array([500.0, 0.0])), **SMALL).learn(ITERATION)
    assert model.policy.normalizer.origin.tolist() == [0.0, 0.0]
    plain = R2VPO(far(1e9), normalize_observations=False, **SMALL).learn(ITERATION)
    assert plain.policy.normalizer.origin.tolist() == [0.0, 0.0]


def as_of_old(tree):
    """A saved model as earlier versions wrote it: with the checkers' layers, and without what is new."""
    collector = tree["environments"]
    collector["environments"].pop("steps")
    for env in collector["environments"]["envs"]:
        common = dict.fromkeys(["_action_space", "_observation_space"])
        env["layers"].insert(1, {**common, "_has_reset": True, "_disable_render_order_enforcing": False})
    tree["learner"]["policy"].pop("normalizer.origin")
    return tree


def trained(model):
    """Weights and training returns; evaluations differ in a digit where another number of environments is evaluated."""
    model.close()
    return weights(model).tolist(), model.episodes.returns


@pytest.mark.parametrize("kind", ["id", "object", "id of old"])
def test_wrappers_that_only_check_do_not_count_when_a_state_is_restored(kind, tmp_path):
    saved, settings = tmp_path / "model.zip", {**SMALL, "num_envs": 1}
    made = gym.make("Pendulum-v1")
    assert isinstance(made.env, gym.wrappers.OrderEnforcing)
    first = R2VPO(made if kind == "object" else "Pendulum-v1", **settings).learn(72)
    first.save(saved)
    if kind == "id of old":
        save_tree(saved, as_of_old(load_tree(saved)))
    expected = trained(first.learn(72, reset_num_timesteps=False))
    for env in ("Pendulum-v1", gym.make("Pendulum-v1"), gym.make("Pendulum-v1", disable_env_checker=True)):
        loaded = R2VPO.load(saved, env=env)
        checks = [layer for layer in layers(loaded.collector.envs.envs[0]) if hasattr(layer, "_has_reset")]
        assert [layer._has_reset for layer in checks] == [True]
        assert trained(loaded.learn(72, reset_num_timesteps=False)) == expected


def layers(env):
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env


def test_a_run_of_an_id_is_resumed_with_an_object(tmp_path):
    settings = {**SMALL, "num_envs": 1, "total_steps": 144}
    whole = R2VPO("Pendulum-v1", **settings).learn()
    first = R2VPO("Pendulum-v1", run_dir=tmp_path / "run", **settings)
    first.learn(callback=lambda local, _: local["self"].num_timesteps < 40)
    resumed = R2VPO.resume(tmp_path / "run", env=gym.make("Pendulum-v1"))
    assert resumed.num_timesteps == 48
    assert trained(resumed.learn()) == trained(whole)


def test_films_pass_the_gate(tmp_path):
    pytest.importorskip("imageio")

    class Filmed(IdentityEnv):
        metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

        def render(self):
            return np.zeros((32, 32, 3), np.uint8)

        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed)[0]

    with pytest.raises(EnvironmentFailure, match=r"environment 0 of 1 \(Filmed\) returned in reset .*a pair is needed"):
        record_video(np.asarray, Filmed, tmp_path / "film.mp4", seed=0)
