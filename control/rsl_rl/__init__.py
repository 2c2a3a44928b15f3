"""R²VPO inside rsl_rl: `R2VPO` as an algorithm's `class_name`, and Gymnasium environments for its runner."""

from r2vpo.control.rsl_rl.algorithm import R2VPO
from r2vpo.control.rsl_rl.env import GymnasiumVecEnv

__all__ = ["R2VPO", "GymnasiumVecEnv"]
