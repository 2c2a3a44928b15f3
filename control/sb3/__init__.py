"""R²VPO inside Stable-Baselines3: `R2VPO` in the place of `stable_baselines3.PPO`."""

from r2vpo.control.sb3.algorithm import R2VPO

__all__ = ["R2VPO"]
