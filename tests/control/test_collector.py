"""Actions within their bounds."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from r2vpo.control import R2VPO
from r2vpo.control.collector import ActionBounds


def test_action_bounds():
    space = gym.spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, 4.0]), dtype=np.float64)
    samples = np.array([[-3.0, -3.0], [0.0, 0.0], [0.5, 30.0]])
    assert ActionBounds(space, "clip")(samples).tolist() == [[-1.0, 0.0], [0.0, 0.0], [0.5, 4.0]]
    assert ActionBounds(space, "rescale")(samples).tolist() == [[-1.0, 0.0], [0.0, 2.0], [0.5, 4.0]]
    assert ActionBounds(space, "rescale")(np.array([[0.25, 0.25]])).tolist() == [[0.25, 2.5]]
    squashed = ActionBounds(space, "tanh")(samples)
    assert squashed[1].tolist() == [0.0, 2.0]
    assert space.contains(squashed[2])
    assert squashed[0] == pytest.approx([np.tanh(-3.0), 2.0 * (np.tanh(-3.0) + 1.0)])


@pytest.mark.parametrize("kind", ["rescale", "clip", "tanh"])
def test_action_bounds_repeated_for_rows_are_the_same(kind):
    bounds = ActionBounds(gym.spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, 4.0]), dtype=np.float64), kind)
    samples = np.random.default_rng(0).normal(size=(5, 2))
    assert bounds.for_rows(5)(samples).tolist() == bounds(samples).tolist()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-np.inf, 4.0), (-np.inf, np.inf)])
def test_rescaling_leaves_unit_and_open_ranges_alone(low, high):
    space = gym.spaces.Box(low, high, (3,), np.float32)
    samples = np.array([[-3.0, 0.3, 9.0]], np.float32)
    rescaled = ActionBounds(space, "rescale")(samples)
    assert rescaled.dtype == np.float32
    assert rescaled.tolist() == ActionBounds(space, "clip")(samples).tolist()


@pytest.mark.parametrize(
    ("settings", "unit"),
    [
        ({"algo": "off-policy"}, 2.0),
        ({"algo": "on-policy"}, 2.0),
        ({"preset": "fast"}, 2.0),
        ({"action_bounds": "clip"}, 1.0),
    ],
)
def test_every_preset_rescales_actions(settings, unit):
    model = R2VPO("Pendulum-v1", num_envs=8, **settings)  # its torque lies within -2 and 2
    observations = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    with torch.no_grad():
        mean = model.learner.policy.mean(torch.as_tensor(observations)).numpy()
    actions, _ = model.predict(observations, deterministic=True)
    model.close()
    assert np.abs(mean).max() > 0
    np.testing.assert_allclose(actions, unit * mean, rtol=1e-4, atol=1e-7)
