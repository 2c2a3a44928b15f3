"""rsl_rl's PPO and R²VPO on one MuJoCo task, everything else the same. About two minutes on a laptop, no GPU.

pip install "r2vpo[control,rsl-rl]"
python examples/rsl_rl_hopper.py --iterations 40
tensorboard --logdir runs/rsl_rl
"""

import argparse
import statistics

import torch
from rsl_rl.runners import OnPolicyRunner

from r2vpo.control.rsl_rl import GymnasiumVecEnv

MODEL = {"class_name": "MLPModel", "hidden_dims": [64, 64], "activation": "tanh", "obs_normalization": True}
ALGORITHM = {
    "num_learning_epochs": 10,
    "num_mini_batches": 8,
    "learning_rate": 1e-3,
    "schedule": "fixed",
    "value_loss_coef": 0.5,
    "entropy_coef": 0.0,
    "max_grad_norm": 0.5,
    "use_clipped_value_loss": False,  # rewards of MuJoCo tasks are far larger than its range of 0.2
}


def config(**algorithm):
    """A runner configuration, as a YAML file would hold it."""
    return {
        "num_steps_per_env": 128,
        "save_interval": 20,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "actor": {**MODEL, "distribution_cfg": {"class_name": "GaussianDistribution", "std_type": "log"}},
        "critic": dict(MODEL),
        "algorithm": {**ALGORITHM, **algorithm},
    }


def train(name, args, **algorithm):
    """Train with one algorithm; returns the mean return of the last 100 episodes."""
    torch.manual_seed(args.seed)
    env = GymnasiumVecEnv(args.env, num_envs=16, seed=args.seed)
    runner = OnPolicyRunner(env, config(**algorithm), log_dir=f"runs/rsl_rl/{args.env}-{name}-{args.seed}")
    runner.learn(args.iterations)
    return statistics.mean(runner.logger.rewbuffer)


def main():
    """Train with both and print what they reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--iterations", type=int, default=40, help="of 2048 environment steps each")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)  # fastest for networks this small
    returns = {
        "ppo": train("ppo", args, class_name="PPO"),
        "r2vpo": train("r2vpo", args, class_name="r2vpo.control.rsl_rl:R2VPO", delta=0.1),
    }
    for name, value in returns.items():
        print(f"{name:6s} mean return of the last 100 episodes: {value:.0f}")


if __name__ == "__main__":
    main()
