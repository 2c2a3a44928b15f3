"""One gradient step: the place where objective, dual variable, optimizer and diagnostics meet.

Both trainers call :meth:`PolicyUpdater.step`; what differs between a Gaussian and a token policy is the function
that turns a micro-batch into a :class:`Scored`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from r2vpo.diagnostics import ratio_diagnostics, ratio_variance_by_age
from r2vpo.dual import DualController
from r2vpo.objectives import Objective

MicroBatch = TypeVar("MicroBatch")


@dataclass
class Scored:
    """A micro-batch under the current policy.

    ``log_prob``, ``old_log_prob``, ``advantage``, ``mask`` and ``age`` have one shape, ``[n]`` or ``[b, t]``.
    """

    log_prob: Tensor
    old_log_prob: Tensor
    advantage: Tensor
    mask: Tensor | None = None
    age: Tensor | None = None
    auxiliary_loss: Tensor | None = None
    """Scalar added to the policy loss as it is (value loss, entropy bonus), already divided by the global count."""


@dataclass
class _Sampled:
    """The unmasked elements of a micro-batch, ``[n]``, without gradient."""

    log_ratio: Tensor
    advantage: Tensor
    age: Tensor | None


@dataclass
class UpdateLog:
    """What the steps since the last summary saw; skipped steps leave no samples."""

    samples: list[_Sampled] = field(default_factory=list)
    auxiliary_losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    skipped: int = 0


class PolicyUpdater(Generic[MicroBatch]):
    """Takes gradient steps on an objective, moves lambda after each, and keeps what the diagnostics need.

    Args:
        objective: Elementwise loss from :func:`r2vpo.objectives.make_objective`.
        dual: Holds lambda; used by objectives that have one.
        optimizer: Over the parameters to train.
        score: Turns a micro-batch into a :class:`Scored`.
        max_grad_norm: Gradients are scaled so that their joint 2-norm is at most this.
        drop_gradients: Free gradients between steps; False zeroes them in place.
    """

    def __init__(
        self,
        objective: Objective,
        dual: DualController,
        optimizer: torch.optim.Optimizer,
        score: Callable[[MicroBatch], Scored],
        max_grad_norm: float,
        drop_gradients: bool = True,
    ) -> None:
        self.objective = objective
        self.dual = dual
        self.optimizer = optimizer
        self.score = score
        self.max_grad_norm = max_grad_norm
        self.drop_gradients = drop_gradients
        self.log = UpdateLog()
        self._uses_dual = objective.uses_dual
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def step(self, micro_batches: Sequence[MicroBatch], count: int) -> bool:
        """Take one optimizer step and one dual step on the mean loss over all the micro-batches together.

        A step whose loss or gradient is not finite changes nothing and is counted in ``skipped``.

        Args:
            micro_batches: Parts of one minibatch; how it is cut does not change the gradient.
            count: Number of unmasked elements in all of them, the denominator of the mean.

        Returns:
            Whether the step was taken.
        """
        self.optimizer.zero_grad(set_to_none=self.drop_gradients)
        overrides: dict[str, Any] = {"lam": self.dual.lam} if self._uses_dual else {}
        square_sum, auxiliary = 0.0, 0.0
        seen: list[_Sampled] = []
        for micro_batch in micro_batches:
            scored = self.score(micro_batch)
            elementwise = self.objective(
                scored.log_prob, scored.old_log_prob, scored.advantage, scored.mask, **overrides
            )
            loss = elementwise.sum() / count
            if scored.auxiliary_loss is not None:
                loss = loss + scored.auxiliary_loss
                auxiliary += float(scored.auxiliary_loss.detach())
            sampled = _unmasked(scored)
            # The objective clamps log-ratios, so an infinite log-prob would not show in the loss.
            if not math.isfinite(loss.item()) or not math.isfinite(sampled.log_ratio.sum().item()):
                return self._skip()
            loss.backward()
            seen.append(sampled)
            square_sum += float((sampled.log_ratio.double().exp() - 1.0).square().sum())
        grad_norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self.max_grad_norm))
        if not math.isfinite(grad_norm):
            return self._skip()
        self.optimizer.step()
        self.dual.update(square_sum / count)
        self.log.samples += seen
        self.log.grad_norms.append(grad_norm)
        self.log.auxiliary_losses.append(auxiliary)
        return True

    def summary(self) -> dict[str, Any]:
        """Diagnostics over every step since the last call, and a fresh start.

        Besides :func:`r2vpo.diagnostics.ratio_diagnostics`: ``ratio_variance_by_age`` where ages are known,
        ``lam``, ``grad_norm``, ``auxiliary_loss``, ``gradient_steps`` and ``skipped_steps``.
        """
        log, self.log = self.log, UpdateLog()
        lam = self.dual.lam if self._uses_dual else 0.0
        values: dict[str, Any] = {
            "lam": lam,
            "gradient_steps": len(log.grad_norms),
            "skipped_steps": log.skipped,
        }
        if log.samples:
            log_ratio = torch.cat([sampled.log_ratio for sampled in log.samples])
            values |= ratio_diagnostics(log_ratio, torch.cat([sampled.advantage for sampled in log.samples]), lam=lam)
            ages = [sampled.age for sampled in log.samples if sampled.age is not None]
            if len(ages) == len(log.samples):
                values["ratio_variance_by_age"] = ratio_variance_by_age(log_ratio, torch.cat(ages))
        if log.grad_norms:
            values["grad_norm"] = sum(log.grad_norms) / len(log.grad_norms)
            values["auxiliary_loss"] = sum(log.auxiliary_losses) / len(log.auxiliary_losses)
        return values

    def _skip(self) -> bool:
        self.optimizer.zero_grad(set_to_none=self.drop_gradients)
        self.log.skipped += 1
        return False


def _unmasked(scored: Scored) -> _Sampled:
    kept = None if scored.mask is None else scored.mask.bool()

    def select(values: Tensor) -> Tensor:
        return values.flatten() if kept is None else values[kept]

    log_ratio = scored.log_prob.detach() - scored.old_log_prob
    return _Sampled(select(log_ratio), select(scored.advantage), None if scored.age is None else select(scored.age))
