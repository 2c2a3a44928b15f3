"""R²VPO inside rsl_rl: `R2VPO` as an algorithm's `class_name`, and Gymnasium environments for its runner."""

from r2vpo.errors import require_host

require_host("rsl-rl-lib", ">=5.5,<5.6", "rsl-rl")

# ruff: noqa: E402  # the version is checked first
from r2vpo.control.rsl_rl.algorithm import DIAGNOSTICS, R2VPO
from r2vpo.control.rsl_rl.env import GymnasiumVecEnv

__all__ = ["DIAGNOSTICS", "R2VPO", "GymnasiumVecEnv"]
