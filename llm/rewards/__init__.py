"""Verifiable rewards: ``f(prompts, completions, **columns) -> list[float | None]``, None for "no verdict"."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r2vpo.llm.rewards.math_verify import MathVerifyReward
    from r2vpo.llm.rewards.reasoning import ReasoningGymReward
    from r2vpo.llm.rewards.registry import REWARDS, make_reward
    from r2vpo.llm.rewards.scoring import RewardBatch, RewardFunction, score
    from r2vpo.llm.rewards.text import completion_text
    from r2vpo.llm.rewards.verifier.pool import Verdict, VerifierPool

__all__ = [
    "REWARDS",
    "MathVerifyReward",
    "ReasoningGymReward",
    "RewardBatch",
    "RewardFunction",
    "Verdict",
    "VerifierPool",
    "completion_text",
    "make_reward",
    "score",
]

_HOMES = {
    "REWARDS": "registry",
    "MathVerifyReward": "math_verify",
    "ReasoningGymReward": "reasoning",
    "RewardBatch": "scoring",
    "RewardFunction": "scoring",
    "Verdict": "verifier.pool",
    "VerifierPool": "verifier.pool",
    "completion_text": "text",
    "make_reward": "registry",
    "score": "scoring",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: a verifier process imports this package and must not load numpy or anything larger.
    if name in _HOMES:
        return getattr(import_module(f"r2vpo.llm.rewards.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
