"""Hopper with Stable-Baselines3: PPO's script with one class swapped, with replay, then resumed from its files.

    pip install "r2vpo[sb3]"
    python examples/sb3_hopper.py

It takes about a minute on a laptop; `--algo ppo` runs SB3's PPO in its place.
"""

import argparse
from pathlib import Path

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from r2vpo.control.sb3 import R2VPO

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--algo", choices=("r2vpo", "r2vpo-replay", "ppo"), default="r2vpo-replay")
parser.add_argument("--env", default="Hopper-v5")
parser.add_argument("--steps", type=int, default=32_768)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=Path, default=Path("runs/sb3-hopper"))
arguments = parser.parse_args()

env = VecNormalize(make_vec_env(arguments.env, n_envs=4, seed=arguments.seed))
hyper_parameters = {"n_steps": 512, "batch_size": 128, "seed": arguments.seed, "device": "cpu", "verbose": 1}
if arguments.algo == "ppo":
    model = PPO("MlpPolicy", env, **hyper_parameters)
else:
    replay = 4 if arguments.algo == "r2vpo-replay" else 1
    model = R2VPO("MlpPolicy", env, buffer_iterations=replay, **hyper_parameters)
model.learn(arguments.steps // 2, log_interval=4)

arguments.out.mkdir(parents=True, exist_ok=True)
model.save(arguments.out / "model.zip")  # lambda is in it
env.save(str(arguments.out / "statistics.pkl"))
if arguments.algo == "r2vpo-replay":
    model.save_replay_buffer(arguments.out / "buffer.zip")

# Another process would start here.
env = VecNormalize.load(str(arguments.out / "statistics.pkl"), make_vec_env(arguments.env, n_envs=4))
model = type(model).load(arguments.out / "model.zip", env=env, device="cpu")
if arguments.algo == "r2vpo-replay":
    model.load_replay_buffer(arguments.out / "buffer.zip")
model.learn(arguments.steps // 2, reset_num_timesteps=False, log_interval=4)

env.training, env.norm_reward = False, False
mean, deviation = evaluate_policy(model, env, n_eval_episodes=20)
print(f"{arguments.algo} on {arguments.env} after {model.num_timesteps} steps: return {mean:.0f} +- {deviation:.0f}")
