"""Gymnasium environments for rsl_rl's runner."""

import pytest
import torch

pytest.importorskip("rsl_rl", reason="rsl-rl-lib is not installed")

from small_envs import BufferedEnv, CountingEnv, IdentityEnv

from r2vpo.control.rsl_rl import GymnasiumVecEnv


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


def test_buffers_that_the_environment_overwrites_change_nothing():
    fresh, reused = GymnasiumVecEnv(IdentityEnv, 2), GymnasiumVecEnv(BufferedEnv, 2)
    seen = []
    for env in (fresh, reused):
        actions, answers = torch.full((2, 2), 0.5), [env.get_observations()]
        answers += [env.step(actions) for _ in range(12)]
        seen.append([answers[0]["policy"], *(part for o, r, d, _ in answers[1:] for part in (o["policy"], r, d))])
        assert actions.tolist() == [[0.5, 0.5]] * 2
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))
    assert len({tuple(observations.flatten().tolist()) for observations in seen[0][1::3]}) == 12


def test_mujoco_tasks_know_their_time_limit():
    env = GymnasiumVecEnv("Hopper-v5", 2)
    assert (env.max_episode_length, env.num_actions, env.envs.engine) == (1000, 3, "native")
    observations, rewards, dones, _ = env.step(torch.zeros(2, 3))
    assert observations["policy"].dtype == rewards.dtype == torch.float32
    assert dones.tolist() == [0, 0]
    env.close()
