"""R²VPO inside verl's V1 trainer (arXiv 2601.03320): importing this package registers the loss and the trainer.

verl imports it by itself through the entry-point group ``verl.plugins``; ``python -m r2vpo.llm.verl.check`` shows
whether it has. The objective, lambda and the draw from the buffer are the core's; this package translates.
"""

from __future__ import annotations

from r2vpo.errors import require_host

SUPPORTED = ">=0.9,<0.10"
"""Versions of verl that these classes were written for."""

require_host("verl", SUPPORTED, "verl")

from r2vpo.llm.verl.config import R2VPOPolicyLossConfig, check_config  # noqa: E402  (after the version check)
from r2vpo.llm.verl.loss import r2vpo_policy_loss  # noqa: E402
from r2vpo.llm.verl.sampler import FIFOReplayBuffer  # noqa: E402
from r2vpo.llm.verl.trainer import R2VPOTrainer  # noqa: E402

__all__ = ["FIFOReplayBuffer", "R2VPOPolicyLossConfig", "R2VPOTrainer", "check_config", "r2vpo_policy_loss"]
