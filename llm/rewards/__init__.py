"""Verifiable rewards: ``f(prompts=..., completions=..., **columns) -> list[float | None]``, None for "no verdict"."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from r2vpo.llm.rewards.calling import RewardFunction, TrainerState
    from r2vpo.llm.rewards.math_verify import MathVerifyReward
    from r2vpo.llm.rewards.reasoning import ReasoningGymReward
    from r2vpo.llm.rewards.registry import REWARDS, make_reward
    from r2vpo.llm.rewards.scoring import RewardBatch, score
    from r2vpo.llm.rewards.text import completion_text
    from r2vpo.llm.rewards.verifier.pool import Verdict, VerifierPool

__all__ = [
    "REWARDS",
    "MathVerifyReward",
    "ReasoningGymReward",
    "RewardBatch",
    "RewardFunction",
    "TrainerState",
    "Verdict",
    "VerifierPool",
    "completion_text",
    "make_reward",
    "score",
]

# A verifier process imports this package and must not load numpy or anything larger.
# Loaded on first use: the command line answers --help without waiting for torch.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "calling": ("RewardFunction", "TrainerState"),
        "math_verify": ("MathVerifyReward",),
        "reasoning": ("ReasoningGymReward",),
        "registry": ("REWARDS", "make_reward"),
        "scoring": ("RewardBatch", "score"),
        "text": ("completion_text",),
        "verifier.pool": ("Verdict", "VerifierPool"),
    },
)
