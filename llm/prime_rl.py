"""The R²VPO objective as prime-rl's custom loss (arXiv 2601.03320, Eq. 10).

``[trainer.loss] type = "custom"``, ``import_path = "r2vpo.llm.prime_rl.r2vpo_loss"``, ``kwargs = { lam = 0.04 }``.

prime-rl is installed from its repository and is not imported here: it hands over a dataclass and reads two attributes
of what it gets back. What has to fit is therefore that interface, and each call checks it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from r2vpo.errors import HostVersionError
from r2vpo.objectives import make_objective

SUPPORTED = ">=0.7,<0.9"
"""Versions of prime-rl with this interface; checked against 0.8.1.dev67, commit 559b4477."""

FIELDS = ("trainer_logprobs", "inference_logprobs", "advantages", "loss_mask", "loss_weights")
"""What a call reads of prime-rl's ``LossInputs``."""


class LossInputs(Protocol):
    """One sequence as ``prime_rl.trainer.rl.loss.LossInputs`` holds it; every tensor is ``[T]``."""

    trainer_logprobs: Tensor
    """log pi_theta in nats at the sampling temperature; carries the gradient."""
    inference_logprobs: Tensor
    """log pi_off in nats, from the engine that sampled."""
    advantages: Tensor
    loss_mask: Tensor
    """True where a token counts."""
    loss_weights: Tensor | None
    """Weight of each token's loss; None is 1 everywhere."""


@dataclass
class LossOutputs:
    """What prime-rl reads: the attributes of its own class of this name."""

    loss: Tensor
    metrics: dict[str, Tensor]


def r2vpo_loss(inputs: LossInputs, lam: float = 0.04) -> LossOutputs:
    """Sum of ``-(rho A - lam (rho-1)^2)`` over the masked tokens of one sequence.

    prime-rl adds the sequences of all processes up and divides by their masked tokens, so the result is the mean over
    tokens whatever the packing.

    Args:
        inputs: One sequence; ``rho`` is ``exp(trainer_logprobs - inference_logprobs)``.
        lam: Lambda, at least 0. It stays where it is: prime-rl has no place between gradient steps to move it.

    Returns:
        The sum, and one value a masked token of ``ratio_variance`` (rho-1)^2 and ``ratio`` rho; prime-rl logs their
        mean, median, standard deviation, least and largest value over all tokens of a step.

    Raises:
        HostVersionError: ``inputs`` is not prime-rl's dataclass of the supported versions.
        ConfigError: ``lam`` is out of range.
    """
    _check_interface(inputs)
    log_prob, old_log_prob, advantage = (
        _full_precision(x) for x in (inputs.trainer_logprobs, inputs.inference_logprobs, inputs.advantages)
    )
    mask = inputs.loss_mask.bool()
    elementwise = make_objective("r2vpo", lam=lam)(log_prob, old_log_prob, advantage, mask)
    if inputs.loss_weights is not None:
        elementwise = elementwise * torch.where(mask, inputs.loss_weights, 0.0)
    ratio = (log_prob.detach() - old_log_prob)[mask].exp()
    return LossOutputs(elementwise.sum(), {"ratio_variance": (ratio - 1.0).square(), "ratio": ratio})


def _check_interface(inputs: object) -> None:
    missing = [name for name in FIELDS if not hasattr(inputs, name)]
    if missing:
        message = f"the loss inputs have no {', '.join(missing)}; this loss needs prime-rl{SUPPORTED}"
        raise HostVersionError(f"{message} (https://github.com/PrimeIntellect-ai/prime-rl)")


def _full_precision(values: Tensor) -> Tensor:
    # bfloat16 cannot hold the square of a ratio near 1.
    return values.to(torch.promote_types(values.dtype, torch.float32))
