"""The replay buffer holds its samples and nothing else."""

import pytest

from r2vpo.control import R2VPO


def storages(tree):
    """Bytes of each block of memory that the tensors of the buffer keep alive."""
    return {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for iteration in tree
        for tensor in iteration.values()
        if tensor.numel()
    }


@pytest.mark.parametrize("settings", [{}, {"replay_advantages": "stored"}, {"overlap": True}])
def test_four_iterations_of_64_environments_are_their_own_bytes(settings):
    steps, envs, size, actions = 16, 64, 17, 6
    model = R2VPO(
        "HalfCheetah-v5",
        num_envs=envs,
        buffer_iterations=4,
        rollout_steps=steps,
        epochs=1,
        minibatch_size=256,
        gradient_step="eager",
        stagger=False,  # no episode ends, so there are no final observations
        **settings,
    )
    model.learn(6 * steps * envs)
    buffer = model.learner.buffer
    model.close()
    assert len(buffer.iterations) == 4
    # Observations, actions and log-prob in float32; then either the reward in float64 and two flags, or advantage
    # and value target in float32. Besides, one observation per environment to bootstrap from.
    sample = 4 * (size + actions + 1) + (8 if "replay_advantages" in settings else 8 + 2)
    held = sum(storages(buffer.iterations).values())
    assert held == sum(tensor.nbytes for iteration in buffer.iterations for tensor in iteration.values())
    assert held <= 4 * (steps * envs * sample + envs * size * 4)
    assert held >= 4 * steps * envs * sample
