"""The gradient step of :class:`r2vpo.update.PolicyUpdater` as one compiled function.

For networks as small as control uses, an eager step spends five sixths of its time between operations rather than in
them. Here the operations are the same ones, traced: the objective, the policy's log-probs and the chain rule are not
written a second time. Only clipping and Adam are spelled out, in the form of PyTorch's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from r2vpo.dual import DualController
from r2vpo.objectives import Objective
from r2vpo.runs.compilation import Compiled, CompiledFunction
from r2vpo.update import PolicyUpdater, Sampled, Scored, minibatch_loss

Batch = Mapping[str, Tensor]
"""What the module scores. Holds ``old_log_prob``, ``advantage`` and ``age`` ``[N]`` under these names."""

CLIP_EPS = 1e-6
"""As in :func:`torch.nn.utils.clip_grad_norm_`."""


class CompiledUpdater(PolicyUpdater[Batch]):
    """Takes eager steps until :meth:`use_compiled_step`, and compiled ones from then on.

    Both leave the same state behind: the optimizer's state dict is Adam's, lambda is moved by the same controller.

    Args:
        objective, dual, max_grad_norm: See :class:`PolicyUpdater`.
        module: Turns a batch into a :class:`Scored`, on one device, without masks or weights.
        parameters: The module's parameters laid end to end (:func:`flatten_parameters`).
        bounds: Lowest and highest value of parameters, by name, held after each step.
        clip_sizes: Lengths of the parts of the vector whose gradients are clipped each by itself; None clips the whole.
        optimizer: Adam over ``parameters`` alone, without weight decay or AMSGrad.

    Raises:
        ValueError: The optimizer is another one.
    """

    def __init__(
        self,
        objective: Objective,
        dual: DualController,
        optimizer: torch.optim.Adam,
        module: nn.Module,
        parameters: nn.Parameter,
        max_grad_norm: float,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        clip_sizes: Sequence[int] | None = None,
    ) -> None:
        super().__init__(
            objective,
            dual,
            optimizer,
            module,
            max_grad_norm,
            drop_gradients=False,
            constrain=lambda: self._hold_bounds(parameters),
        )
        (group,) = optimizer.param_groups
        if group["params"] != [parameters] or group["weight_decay"] or group["amsgrad"]:
            raise ValueError("the compiled step is plain Adam over one vector of parameters")
        self._module = module
        self._flat = parameters
        self._bounds = dict(bounds or {})
        self._clip_sizes = [parameters.numel()] if clip_sizes is None else list(clip_sizes)
        self._scalars = torch.ones(3)
        self._set_scalars = self._scalars.numpy()
        self._names: list[str] = []
        self._signature: list[tuple[torch.Size, torch.dtype]] = []
        self._run: Compiled | None = None

    @property
    def _group(self) -> dict[str, Any]:
        # Looked up at each use: loading a state dict puts another in its place.
        group: dict[str, Any] = self.optimizer.param_groups[0]
        return group

    @property
    def is_compiled(self) -> bool:
        """Whether steps are compiled ones."""
        return self._run is not None

    def trace(self, example: Batch) -> CompiledFunction:
        """Trace the step for batches shaped like ``example``; its values do not matter."""
        self._names = sorted(example)
        self._signature = [(example[name].shape, example[name].dtype) for name in self._names]
        vectors = [torch.zeros_like(self._flat.detach()) for _ in range(3)]
        batch = [example[name] for name in self._names]
        return CompiledFunction(self._step_function, [*vectors, self._scalars, *batch])

    def use_compiled_step(self, function: CompiledFunction) -> None:
        """Compile what :meth:`trace` returned, or load it from the cache, and step with it from now on.

        Raises:
            CompilationError: It could not be compiled; steps stay eager.
        """
        self._run = function.load()

    def use_eager_step(self) -> None:
        """Step eagerly from now on."""
        self._run = None

    def step(self, micro_batches: Sequence[Batch], count: int) -> bool:
        """See :meth:`PolicyUpdater.step`. What is not one batch of the compiled shape is stepped eagerly."""
        if self._run is None or len(micro_batches) != 1:
            return super().step(micro_batches, count)
        batch = micro_batches[0]
        inputs = [batch[name] for name in self._names]
        if count != len(inputs[0]) or not self._fit(inputs):
            return super().step(micro_batches, count)
        state = self._adam_state()
        group, steps = self._group, state["step"].item() + 1.0
        beta1, beta2 = group["betas"]
        self._set_scalars[:] = self.dual.lam, group["lr"] / (1.0 - beta1**steps), math.sqrt(1.0 - beta2**steps)
        statistics, log_ratio = self._run(
            [self._flat.detach(), state["exp_avg"], state["exp_avg_sq"], self._scalars, *inputs]
        )
        finite, squares, auxiliary, grad_norm = statistics.tolist()
        if not finite:
            return self._skip()
        state["step"] += 1
        self.dual.update(squares / count)
        self.log.samples.append(Sampled(log_ratio, batch["advantage"], batch["old_log_prob"], batch.get("age")))
        self.log.grad_norms.append(grad_norm)
        self.log.auxiliary_losses.append(auxiliary)
        return True

    def _fit(self, inputs: Sequence[Tensor]) -> bool:
        return all(
            tensor.shape == shape and tensor.dtype == dtype and tensor.is_contiguous()
            for tensor, (shape, dtype) in zip(inputs, self._signature, strict=True)
        )

    def _adam_state(self) -> dict[str, Tensor]:
        """Adam's state, begun as Adam begins it."""
        state: dict[str, Tensor] = self.optimizer.state[self._flat]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(self._flat.detach())
            state["exp_avg_sq"] = torch.zeros_like(self._flat.detach())
        return state

    def _step_function(
        self, flat: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, scalars: Tensor, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        """One step, in place on the first three.

        Args:
            flat, exp_avg, exp_avg_sq: Parameters and Adam's moments, ``[P]``.
            scalars: Lambda, the step size over its bias correction, the square root of the second bias correction.
            inputs: The batch in the order of its names.

        Returns:
            ``[4]`` in float64: whether the step was finite and so taken, sum of (rho-1)^2, auxiliary loss, norm of
            the gradient; and the log-ratios ``[N]``.
        """
        lam, step_size, correction = scalars.unbind()
        gradient, scored, loss = self._differentiate(flat, lam, dict(zip(self._names, inputs, strict=True)))
        log_ratio = scored.log_prob.detach() - scored.old_log_prob
        squares = (log_ratio.double().exp() - 1.0).square().sum()
        auxiliary = torch.zeros(()) if scored.auxiliary_loss is None else scored.auxiliary_loss.detach()
        norm = gradient.norm()
        finite = torch.isfinite(loss) & torch.isfinite(log_ratio.sum()) & torch.isfinite(norm)
        gradient = self._clipped(gradient)
        beta1, beta2 = self._group["betas"]
        first = torch.lerp(exp_avg, gradient, 1.0 - beta1)
        second = exp_avg_sq * beta2 + gradient.square() * (1.0 - beta2)
        moved = flat - step_size * first / (second.sqrt() / correction + self._group["eps"])
        for stored, changed in ((flat, moved), (exp_avg, first), (exp_avg_sq, second)):
            stored.copy_(torch.where(finite, changed, stored))
        self._hold_bounds(flat)
        return torch.stack([finite.double(), squares, auxiliary.double(), norm.double()]), log_ratio

    def _clip_gradients(self) -> float:
        gradient = self._flat.grad
        assert gradient is not None, "gradients of a vector are zeroed in place"
        norm = float(gradient.norm())
        gradient.copy_(self._clipped(gradient))
        return norm

    def _clipped(self, gradient: Tensor) -> Tensor:
        parts = gradient.split(self._clip_sizes)
        return torch.cat([part * (self.max_grad_norm / (part.norm() + CLIP_EPS)).clamp(max=1.0) for part in parts])

    def _hold_bounds(self, flat: Tensor) -> None:
        offset = 0
        for name, parameter in self._module.named_parameters():
            if name in self._bounds:
                flat[offset : offset + parameter.numel()].clamp_(*self._bounds[name])
            offset += parameter.numel()

    def _differentiate(self, flat: Tensor, lam: Tensor, batch: Batch) -> tuple[Tensor, Scored, Tensor]:
        """Gradient ``[P]`` of the loss at the parameters ``flat``, the scored batch, and the loss."""
        named = list(self._module.named_parameters())
        pieces = flat.split([parameter.numel() for _, parameter in named])
        with torch.enable_grad():
            leaves = [
                piece.detach().view_as(parameter).requires_grad_()
                for piece, (_, parameter) in zip(pieces, named, strict=True)
            ]
            values = {name: leaf for (name, _), leaf in zip(named, leaves, strict=True)}
            scored: Scored = torch.func.functional_call(self._module, values, (batch,))
            overrides: dict[str, Any] = {"lam": lam} if self._uses_dual else {}
            loss = minibatch_loss(self.objective, scored, len(scored.log_prob), **overrides)
            gradients = torch.autograd.grad(loss, leaves)
        return torch.cat([gradient.flatten() for gradient in gradients]), scored, loss.detach()


def flatten_parameters(parameters: Iterable[nn.Parameter]) -> nn.Parameter:
    """Lay parameters and their gradients end to end in memory and return the vector that holds them.

    The parameters stay where they are and keep their shapes; they and their gradients become views of the vector and
    of its gradient. Gradients must from then on be zeroed in place, not dropped.

    Args:
        parameters: Of one dtype on one device.
    """
    parameters = list(parameters)
    with torch.no_grad():
        flat = nn.Parameter(torch.cat([p.flatten() for p in parameters]))
        flat.grad = torch.zeros_like(flat)
        offset = 0
        for parameter in parameters:
            end = offset + parameter.numel()
            parameter.data = flat.data[offset:end].view_as(parameter)
            parameter.grad = flat.grad[offset:end].view_as(parameter)
            offset = end
    return flat
