"""Algorithms on made-up rollouts; as a program, the same update in one of several gloo processes."""

import sys

import torch
from rsl_rl.algorithms import PPO
from rsl_rl.env import VecEnv
from rsl_rl.runners import OnPolicyRunner
from small_envs import IdentityEnv
from tensordict import TensorDict

from r2vpo.control.rsl_rl import GymnasiumVecEnv

STEPS, ENVS, OBSERVATION, ACTION = 8, 8, 5, 2
MODEL = {"class_name": "MLPModel", "hidden_dims": [16, 16], "activation": "tanh", "obs_normalization": True}
ON_POLICY = {"buffer_iterations": 1, "utd": 1.0}


class Shapes(VecEnv):
    """What rsl_rl asks an environment for while it builds an algorithm."""

    num_actions = ACTION

    def __init__(self, num_envs):
        self.num_envs = num_envs

    def get_observations(self):
        return TensorDict({"policy": torch.zeros(self.num_envs, OBSERVATION)}, batch_size=[self.num_envs])

    def step(self, actions):
        raise AssertionError("nothing to step")


def runner_config(steps=STEPS, class_name="r2vpo.control.rsl_rl:R2VPO", model=MODEL, **algorithm):
    return {
        "num_steps_per_env": steps,
        "save_interval": 1000,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "multi_gpu": None,
        "actor": {**model, "distribution_cfg": {"class_name": "GaussianDistribution"}},
        "critic": dict(model),
        "algorithm": {"class_name": class_name, **algorithm},
    }


def build(num_envs=ENVS, multi_gpu=None, **algorithm):
    """An algorithm with weights that depend on nothing but the models' sizes."""
    torch.manual_seed(0)
    env, config = Shapes(num_envs), runner_config(**algorithm)
    config["multi_gpu"] = multi_gpu
    return PPO.construct_algorithm(env.get_observations(), env, config, "cpu")


def identity_runner(log_dir=None, num_envs=16, steps=20, **algorithm):
    torch.manual_seed(0)
    config = runner_config(steps, **algorithm)
    return OnPolicyRunner(GymnasiumVecEnv(IdentityEnv, num_envs), config, log_dir and str(log_dir))


def rollout(seed, steps=STEPS, num_envs=ENVS):
    """Observations (one more than steps), noise, rewards, dones and time-outs of a made-up rollout."""
    generator = torch.Generator().manual_seed(seed)
    done = torch.rand(steps, num_envs, generator=generator) < 0.2
    return {
        "observations": torch.randn(steps + 1, num_envs, OBSERVATION, generator=generator) * 2 + 1,
        "noise": torch.randn(steps, num_envs, ACTION, generator=generator),
        "rewards": torch.randn(steps, num_envs, generator=generator),
        "dones": done,
        "time_outs": done & (torch.rand(steps, num_envs, generator=generator) < 0.5),
    }


@torch.inference_mode()
def collect(algorithm, data, off_policy=0.0):
    """Play a made-up rollout, as rsl_rl's runner does; ``off_policy`` moves the stored log-probs off by noise."""
    observations = [TensorDict({"policy": x}, batch_size=[len(x)]) for x in data["observations"]]
    for t, noise in enumerate(data["noise"]):
        algorithm.act(observations[t])
        transition = algorithm.transition
        transition.actions = algorithm.actor.output_mean + noise * algorithm.actor.output_std
        log_prob = algorithm.actor.get_output_log_prob(transition.actions)
        transition.actions_log_prob = log_prob + off_policy * noise.sum(-1)
        extras = {"time_outs": data["time_outs"][t]}
        algorithm.process_env_step(observations[t + 1], data["rewards"][t], data["dones"][t], extras)
    algorithm.compute_returns(observations[-1])


def updated(algorithm, seeds, envs=slice(None), off_policy=0.1):
    """Losses after an update on each of the made-up rollouts, seen through ``envs``."""
    losses = {}
    for seed in seeds:
        data = {name: values[:, envs] for name, values in rollout(seed).items()}
        collect(algorithm, data, off_policy)
        losses = algorithm.update()
    return losses


def settled(algorithm, seed=0):
    """The algorithm with normalizers that have seen a rollout."""
    data = rollout(seed)["observations"].flatten(0, 1)
    for model in (algorithm.actor, algorithm.critic):
        model.update_normalization(TensorDict({"policy": data}, batch_size=[len(data)]))
    return algorithm


def mirror(env, obs, actions):
    """Everything with the opposite sign."""
    mirrored = None
    if obs is not None:
        both = torch.cat([obs["policy"], -obs["policy"]])
        mirrored = TensorDict({"policy": both}, batch_size=[len(both)])
    return mirrored, None if actions is None else torch.cat([actions, -actions])


def parameters(algorithm):
    """Weights and normalizer statistics of actor and critic in one vector."""
    models = (algorithm.actor, algorithm.critic)
    return torch.cat([x.double().flatten() for model in models for x in model.state_dict().values()])


CASES = {
    "on-policy": {"buffer_iterations": 1, "utd": 1.0, "num_mini_batches": 1, "num_learning_epochs": 4},
    "per-minibatch": {
        "buffer_iterations": 1,
        "utd": 1.0,
        "num_mini_batches": 1,
        "normalize_advantage_per_mini_batch": True,
    },
    "replay": {"buffer_iterations": 3, "num_mini_batches": 2, "num_learning_epochs": 2, "anchor": "proximal"},
}


def results(multi_gpu=None, envs=slice(None), num_envs=ENVS):
    found = {}
    for name, settings in CASES.items():
        algorithm = build(num_envs, multi_gpu, **settings)
        losses = updated(algorithm, seeds=range(3), envs=envs)
        found[name] = {
            "parameters": parameters(algorithm),
            "lam": algorithm.updater.dual.lam,
            "ratio_variance": losses["ratio_variance"],
        }
    return found


def main(rank, world, init_file, output):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{init_file}", rank=rank, world_size=world)
    share = ENVS // world
    multi_gpu = {"global_rank": rank, "local_rank": rank, "world_size": world}
    found = results(multi_gpu, slice(rank * share, (rank + 1) * share), share)
    torch.save(found, output)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
