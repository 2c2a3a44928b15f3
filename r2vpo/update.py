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
class UpdateLog:
    """What the steps since the last summary saw."""

    log_ratios: list[Tensor] = field(default_factory=list)
    advantages: list[Tensor] = field(default_factory=list)
    ages: list[Tensor] = field(default_factory=list)
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
        seen: list[Scored] = []
        for micro_batch in micro_batches:
            scored = self.score(micro_batch)
            loss = (
                self.objective(scored.log_prob, scored.old_log_prob, scored.advantage, scored.mask, **overrides).sum()
                / count
            )
            if scored.auxiliary_loss is not None:
                loss = loss + scored.auxiliary_loss
                auxiliary += float(scored.auxiliary_loss.detach())
            if not math.isfinite(loss.item()):
                return self._skip()
            loss.backward()
            seen.append(scored)
            square_sum += self._record(scored)
        grad_norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, self.max_grad_norm))
        if not math.isfinite(grad_norm):
            return self._skip()
        self.optimizer.step()
        self.dual.update(square_sum / count)
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
        if log.log_ratios:
            log_ratio = torch.cat(log.log_ratios)
            values |= ratio_diagnostics(log_ratio, torch.cat(log.advantages), lam=lam)
            if log.ages:
                values["ratio_variance_by_age"] = ratio_variance_by_age(log_ratio, torch.cat(log.ages))
        if log.grad_norms:
            values["grad_norm"] = sum(log.grad_norms) / len(log.grad_norms)
            values["auxiliary_loss"] = sum(log.auxiliary_losses) / len(log.auxiliary_losses)
        return values

    def _record(self, scored: Scored) -> float:
        """Keep the unmasked log-ratios for the summary and return their sum of (rho - 1)^2."""
        log_ratio = scored.log_prob.detach() - scored.old_log_prob
        advantage, age = scored.advantage, scored.age
        if scored.mask is not None:
            kept = scored.mask.bool()
            log_ratio, advantage = log_ratio[kept], advantage[kept]
            age = age[kept] if age is not None else None
        self.log.log_ratios.append(log_ratio.flatten())
        self.log.advantages.append(advantage.flatten())
        if age is not None:
            self.log.ages.append(age.flatten())
        return float((log_ratio.exp() - 1.0).square().sum())

    def _skip(self) -> bool:
        self.optimizer.zero_grad(set_to_none=self.drop_gradients)
        self.log.skipped += 1
        return False
