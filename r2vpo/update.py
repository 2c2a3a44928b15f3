"""One gradient step: the place where objective, dual variable, optimizer and diagnostics meet.

Both trainers call :meth:`PolicyUpdater.step`; what differs between a Gaussian and a token policy is the function
that turns a micro-batch into a :class:`Scored`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from r2vpo.diagnostics import ratio_diagnostics, ratio_variance_by_age
from r2vpo.dual import DualController
from r2vpo.objectives import Objective
from r2vpo.processes import Processes, SingleProcess

MicroBatch = TypeVar("MicroBatch")

RECENT_SAMPLES = 8192
"""Most elements kept in :attr:`PolicyUpdater.recent`."""


@dataclass
class Scored:
    """A micro-batch under the current policy.

    All tensors but ``auxiliary_loss`` have one shape, ``[n]`` or ``[b, t]``.
    """

    log_prob: Tensor
    old_log_prob: Tensor
    advantage: Tensor
    mask: Tensor | None = None
    age: Tensor | None = None
    weight: Tensor | None = None
    """Weight of each element in the loss; their mean over the minibatch is 1."""
    auxiliary_loss: Tensor | None = None
    """Scalar added to the policy loss as it is (value loss, entropy bonus), already divided by the global count."""


@dataclass
class Sampled:
    """Unmasked elements that gradient steps saw, each ``[n]``, without gradient."""

    log_ratio: Tensor
    advantage: Tensor
    old_log_prob: Tensor
    age: Tensor | None


@dataclass
class _Sums:
    """Sums over the micro-batches of one minibatch; ``finite`` is False once something in them was not."""

    squares: float = 0.0
    auxiliary: float = 0.0
    finite: bool = True


@dataclass
class UpdateLog:
    """What the steps since the last summary saw; skipped steps leave no samples."""

    samples: list[Sampled] = field(default_factory=list)
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
        constrain: Called after each step, without gradients, to move parameters back into their bounds.
        processes: Those that share each minibatch, every one with micro-batches of its own.
    """

    def __init__(
        self,
        objective: Objective,
        dual: DualController,
        optimizer: torch.optim.Optimizer,
        score: Callable[[MicroBatch], Scored],
        max_grad_norm: float,
        drop_gradients: bool = True,
        processes: Processes | None = None,
        constrain: Callable[[], None] | None = None,
    ) -> None:
        self.objective = objective
        self.dual = dual
        self.optimizer = optimizer
        self.score = score
        self.max_grad_norm = max_grad_norm
        self.drop_gradients = drop_gradients
        self.processes: Processes = SingleProcess() if processes is None else processes
        self._alone = isinstance(self.processes, SingleProcess)
        self.constrain = constrain
        self.log = UpdateLog()
        self.recent: Sampled | None = None
        """Some thousands of the elements behind the last summary, for pictures."""
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
        seen, sums = self._accumulate(micro_batches, count)
        if not self._alone:
            sums = self._share(sums)
        if not sums.finite:
            return self._skip()
        grad_norm = self._clip_gradients()
        if not math.isfinite(grad_norm):
            return self._skip()
        self.optimizer.step()
        if self.constrain is not None:
            with torch.no_grad():
                self.constrain()
        self.dual.update(sums.squares / count)
        self.log.samples += seen
        self.log.grad_norms.append(grad_norm)
        self.log.auxiliary_losses.append(sums.auxiliary)
        return True

    def _clip_gradients(self) -> float:
        """Scale gradients down to the bound; returns their joint norm before."""
        return float(torch.nn.utils.clip_grad_norm_(self._parameters, self.max_grad_norm))

    def _accumulate(self, micro_batches: Sequence[MicroBatch], count: int) -> tuple[list[Sampled], _Sums]:
        """Gradients of the micro-batches of this process, added up in place."""
        overrides: dict[str, Any] = {"lam": self.dual.lam} if self._uses_dual else {}
        seen, sums = [], _Sums()
        every, measured = self._scored(micro_batches)
        for scored in every:
            loss = minibatch_loss(self.objective, scored, count, **overrides, **measured)
            if scored.auxiliary_loss is not None:
                sums.auxiliary += float(scored.auxiliary_loss.detach())
            sampled = _unmasked(scored)
            # The objective clamps log-ratios, so an infinite log-prob would not show in the loss.
            if not math.isfinite(loss.item()) or not math.isfinite(sampled.log_ratio.sum().item()):
                sums.finite = False
                break
            loss.backward()
            seen.append(sampled)
            sums.squares += float((sampled.log_ratio.double().exp() - 1.0).square().sum())
        return seen, sums

    def _scored(self, micro_batches: Sequence[MicroBatch]) -> tuple[Iterable[Scored], dict[str, Any]]:
        """The micro-batches, scored one at a time, and what the objective needs to know of all processes' together."""
        if not self.objective.needs_minibatch:
            return map(self.score, micro_batches), {}
        # One micro-batch is scored once. More are scored without gradients first, so that memory holds one graph.
        with torch.set_grad_enabled(len(micro_batches) <= 1):
            ahead = [self.score(micro_batch) for micro_batch in micro_batches]
        everything = self._joined([_unmasked(scored) for scored in ahead])
        measured = {} if everything is None else self.objective.measured(everything.log_ratio, everything.advantage)
        return (ahead if len(ahead) <= 1 else map(self.score, micro_batches)), measured

    def _share(self, sums: _Sums) -> _Sums:
        """Add up gradients and sums over the processes; one that is not finite stops all of them."""
        device = self._parameters[0].device
        local = torch.tensor([sums.squares, sums.auxiliary, float(not sums.finite)], dtype=torch.float64, device=device)
        squares, auxiliary, failures = self.processes.sum(local).tolist()
        for parameter in self._parameters:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = self.processes.sum(gradient)
        return _Sums(squares, auxiliary, failures == 0)

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
        everything = self._joined(log.samples)
        self.recent = None if everything is None else _thinned(everything)
        if everything is not None:
            values |= ratio_diagnostics(everything.log_ratio, everything.advantage, lam=lam)
            if everything.age is not None:
                values["ratio_variance_by_age"] = ratio_variance_by_age(everything.log_ratio, everything.age)
        if log.grad_norms:
            values["grad_norm"] = sum(log.grad_norms) / len(log.grad_norms)
            values["auxiliary_loss"] = sum(log.auxiliary_losses) / len(log.auxiliary_losses)
        return values

    def _joined(self, samples: Sequence[Sampled]) -> Sampled | None:
        """What all processes saw, end to end; None when that is nothing."""

        def join(parts: list[Tensor]) -> Tensor:
            own = torch.cat(parts) if parts else torch.zeros(0)
            return own if self._alone else self.processes.concatenate(own)

        log_ratio = join([sampled.log_ratio for sampled in samples])
        if not len(log_ratio):
            return None
        # Joined even where there are none: every process has to take part in every exchange.
        age = join([sampled.age for sampled in samples if sampled.age is not None])
        return Sampled(
            log_ratio,
            join([sampled.advantage for sampled in samples]),
            join([sampled.old_log_prob for sampled in samples]),
            age if len(age) == len(log_ratio) else None,
        )

    def _skip(self) -> bool:
        self.optimizer.zero_grad(set_to_none=self.drop_gradients)
        self.log.skipped += 1
        return False


def minibatch_loss(objective: Objective, scored: Scored, count: int, **overrides: Any) -> Tensor:
    """The scalar that is differentiated: mean of the objective's elements, plus the auxiliary loss.

    Args:
        objective: Elementwise loss.
        scored: One micro-batch.
        count: Unmasked elements in the whole minibatch, the denominator of the mean.
        overrides: Hyperparameters of the objective that move, such as ``lam``.
    """
    elementwise = objective(scored.log_prob, scored.old_log_prob, scored.advantage, scored.mask, **overrides)
    if scored.weight is not None:
        elementwise = elementwise * scored.weight
    loss = elementwise.sum() / count
    return loss if scored.auxiliary_loss is None else loss + scored.auxiliary_loss


def _thinned(samples: Sampled) -> Sampled:
    stride = -(-len(samples.log_ratio) // RECENT_SAMPLES)
    age = None if samples.age is None else samples.age[::stride]
    return Sampled(samples.log_ratio[::stride], samples.advantage[::stride], samples.old_log_prob[::stride], age)


def _unmasked(scored: Scored) -> Sampled:
    kept = None if scored.mask is None else scored.mask.bool()

    def select(values: Tensor) -> Tensor:
        return values.flatten() if kept is None else values[kept]

    log_ratio = scored.log_prob.detach() - scored.old_log_prob
    age = None if scored.age is None else select(scored.age)
    return Sampled(select(log_ratio), select(scored.advantage), select(scored.old_log_prob), age)
