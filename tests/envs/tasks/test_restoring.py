"""A restored task goes on bit for bit, with its changed model."""

import numpy as np
import pytest
from control_tasks import GUST, IDS, SHIFT, assert_same_arrays, model_arrays, next_gust, play, zero

from r2vpo.envs.making import make_env
from r2vpo.envs.state import capture_state, restore_state
from r2vpo.runs.checkpoint import load_tree, save_tree


def halfway(env_id, seed):
    env = make_env(env_id)
    env.reset(seed=seed)
    if env_id == GUST:
        next_gust(env.unwrapped)
        env.step(zero(env))
        assert env.unwrapped.force != 0.0
    else:
        play(env, 37, seed)
    return env


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("seeds", [(3, 8), (8, 3)])
def test_restored_environment_repeats_the_original_bit_for_bit(env_id, seeds, tmp_path):
    original, copy = (halfway(env_id, seed) for seed in seeds)
    save_tree(tmp_path / "state.zip", capture_state(original))
    state = load_tree(tmp_path / "state.zip")
    assert state["unknown"] == []
    restore_state(copy, state)
    if env_id == SHIFT:
        assert copy.unwrapped.factors == original.unwrapped.factors
        assert_same_arrays(model_arrays(copy.unwrapped.model), model_arrays(original.unwrapped.model))
    if env_id == GUST:
        assert copy.unwrapped.force == original.unwrapped.force != 0.0
    assert np.array_equal(play(original, 150, seed=1), play(copy, 150, seed=1))


def test_restoring_without_the_hook_would_differ(monkeypatch):
    original, copy = halfway(SHIFT, 3), halfway(SHIFT, 8)
    monkeypatch.setattr(type(copy.unwrapped), "restored", lambda self: None)
    restore_state(copy, capture_state(original))
    assert not np.array_equal(play(original, 10, seed=1), play(copy, 10, seed=1))
