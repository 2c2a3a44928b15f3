"""R²VPO inside Stable-Baselines3: `R2VPO` in the place of `stable_baselines3.PPO`."""

from r2vpo.errors import require_host

require_host("stable-baselines3", ">=2.9,<2.10", "sb3")

from r2vpo.control.sb3.algorithm import R2VPO  # noqa: E402  # the version is checked first

__all__ = ["R2VPO"]
