"""R²VPO inside TRL: `R2VPOConfig` and `R2VPOTrainer` in the place of GRPOConfig and GRPOTrainer."""

from r2vpo.llm.trl.config import R2VPOConfig
from r2vpo.llm.trl.trainer import R2VPOTrainer

__all__ = ["R2VPOConfig", "R2VPOTrainer"]
