"""R²VPO inside TRL: `R2VPOConfig` and `R2VPOTrainer` in the place of GRPOConfig and GRPOTrainer."""

from __future__ import annotations

from r2vpo.errors import require_host

SUPPORTED = ">=1.16,<1.17"
"""Versions of TRL that these classes were written for."""

require_host("trl", SUPPORTED, "trl")

from r2vpo.llm.trl.config import R2VPOConfig  # noqa: E402  (after the version check)
from r2vpo.llm.trl.trainer import R2VPOTrainer  # noqa: E402

__all__ = ["R2VPOConfig", "R2VPOTrainer"]
