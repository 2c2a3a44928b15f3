"""Log-probs of tokens from hidden states: the one implementation, and ``[tokens, vocabulary]`` logits never exist.

The logits are made in tiles, all tokens by a slice of the vocabulary. The forward pass keeps a running logsumexp; the
backward pass makes each tile again, turns it into its own gradient in place and is done with that slice of the head.
Slices of the vocabulary rather than of the tokens, because each row of the head's gradient is then one finished
product, instead of a ``[V, H]`` sum read and written once per chunk of tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from r2vpo.errors import ConfigError

TILE_BYTES = 64 * 2**20
"""Size of a float32 tile of logits unless told otherwise: chunk_tokens x V x 4 bytes is about this. Small enough to
stay near the caches, large enough that matrix products run at full speed; one or two such tiles are alive at a time."""

MINIMUM_SLICE = 256
"""Fewest vocabulary entries in a tile; a tile is then no larger than the hidden states it is made from."""


def token_log_probs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: float = 1.0,
    chunk_tokens: int | None = None,
    entropy: bool = False,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs of ``targets`` under ``softmax((hidden @ weight.T + bias) / temperature)``.

    Differentiable once in ``hidden``, ``weight`` and ``bias``. Where those are half precision, or autocast is on,
    matrix products run in half precision and everything else in float32.

    Args:
        hidden: Last hidden states, ``[N, H]``.
        weight, bias: Of the output layer, ``[V, H]`` and ``[V]``.
        targets: Token ids, int64 ``[N]``.
        temperature: Divides the logits.
        chunk_tokens: Bounds memory: a tile holds as many logits as this many tokens have, ``chunk_tokens x V``. None
            takes as many as fill :data:`TILE_BYTES`.
        entropy: Also return entropies.
        entropy_gradient: Let gradients flow through the entropies.

    Returns:
        Log-probs ``[N]``, and entropies in nats ``[N]`` or None; float32, or float64 for float64 inputs.

    Raises:
        ConfigError: ``temperature`` or ``chunk_tokens`` out of range.
        ValueError: Shapes that do not fit, or targets outside the vocabulary.
    """
    _check(hidden, weight, bias, targets)
    if not 0 < temperature < float("inf"):
        raise ConfigError("temperature", temperature, "a finite number above 0")
    if chunk_tokens is not None and chunk_tokens < 1:
        raise ConfigError("chunk_tokens", chunk_tokens, "a whole number of at least 1, or None")
    width = _slice_width(len(hidden), len(weight), chunk_tokens)
    dtype = _product_dtype(hidden, weight)
    values, entropies = _TokenLogProbs.apply(
        hidden, weight, bias, targets, temperature, width, dtype, entropy, entropy_gradient
    )
    return values, entropies if entropy else None


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        width: int,
        dtype: torch.dtype,
        entropy: bool,
        entropy_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        head = _TiledHead(hidden, weight, bias, temperature, width, dtype)
        sums = _SoftmaxSums(targets, head.accumulator, entropy)
        for start in head.starts:
            sums.add(start, head.logits(start))
        log_probs, log_normalizer, entropies = sums.result()
        ctx.save_for_backward(hidden, weight, bias, targets, log_normalizer, entropies)
        ctx.settings = (temperature, width, dtype)
        ctx.set_materialize_grads(False)
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropies)
        return log_probs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_log_probs: Tensor | None, grad_entropies: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, log_normalizer, entropies = ctx.saved_tensors
        head = _TiledHead(hidden, weight, bias, *ctx.settings)
        gradients = _Gradients(head, ctx.needs_input_grad[:3])
        grads = [g if g is None else g / head.temperature for g in (grad_log_probs, grad_entropies)]
        for start in head.starts:
            tile = _logit_gradient(start, head.logits(start), targets, log_normalizer, entropies, *grads)
            gradients.add(start, tile)
            del tile
        return *gradients.result(), *(None,) * 6


class _TiledHead:
    """The output layer, a slice of the vocabulary at a time."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, width: int, dtype: torch.dtype
    ) -> None:
        self.hidden, self.weight, self.bias = hidden, weight, bias
        self.temperature, self.width = temperature, width
        self.accumulator = torch.float64 if dtype == torch.float64 else torch.float32
        self.inputs = hidden.to(dtype)
        self.starts = range(0, len(weight), width)

    def rows(self, start: int) -> Tensor:
        """Rows of the head in the dtype of the products, ``[width, H]``."""
        return self.weight[start : start + self.width].to(self.inputs.dtype)

    def logits(self, start: int) -> Tensor:
        """Logits over temperature of one slice, ``[N, width]``; nothing else refers to them."""
        # Autocast would otherwise choose other dtypes here than in the backward pass.
        with torch.autocast(self.hidden.device.type, enabled=False):
            logits = (self.inputs @ self.rows(start).T).to(self.accumulator)
        if self.bias is not None:
            logits += self.bias[start : start + self.width]
        return logits if self.temperature == 1.0 else logits.div_(self.temperature)


class _SoftmaxSums:
    """Running sums of ``exp(x - peak)`` over the vocabulary, as in an online softmax, and the targets' logits.

    Logits are kept relative to ``peak``, so that log-probs lose no digits to the size of the logits.
    """

    def __init__(self, targets: Tensor, dtype: torch.dtype, entropy: bool) -> None:
        self.targets, self.entropy = targets, entropy
        self.peak = torch.full(targets.shape, torch.finfo(dtype).min, dtype=dtype, device=targets.device)
        self.total = torch.zeros_like(self.peak)
        self.weighted = torch.zeros_like(self.peak)
        """Sum of ``exp(x - peak) (x - peak)``."""
        self.chosen = torch.zeros_like(self.peak)

    def add(self, start: int, logits: Tensor) -> None:
        """Take in a tile, which is overwritten."""
        column, inside = _columns(self.targets, start, logits.shape[1])
        self.chosen = torch.where(inside, logits.gather(1, column).squeeze(1), self.chosen)
        peak = torch.maximum(self.peak, logits.amax(dim=1))
        shift = self.peak - peak
        shrink = shift.exp()
        logits -= peak[:, None]
        if self.entropy:
            exponentials = logits.exp()
            dot = torch.linalg.vecdot(exponentials, logits)
            self.weighted = shrink * (self.weighted + shift * self.total) + dot
        else:
            exponentials = logits.exp_()
        self.total = shrink * self.total + exponentials.sum(dim=1)
        self.peak = peak

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probs, log-normalizers and entropies (0 unless asked for), each ``[N]``."""
        log_total = self.total.log()
        entropies = log_total - self.weighted / self.total if self.entropy else self.weighted
        return (self.chosen - self.peak) - log_total, self.peak + log_total, entropies


class _Gradients:
    """Gradients of hidden states, head and bias, those that are needed."""

    def __init__(self, head: _TiledHead, needed: tuple[bool, ...]) -> None:
        self.head = head
        hidden, weight, bias = head.hidden, head.weight, head.bias
        self.hidden = torch.zeros_like(hidden, dtype=head.accumulator) if needed[0] else None
        self.weight = torch.empty_like(weight) if needed[1] else None
        self.bias = torch.empty_like(bias) if bias is not None and needed[2] else None

    def add(self, start: int, tile: Tensor) -> None:
        """Take in the gradient of the logits of one slice, ``[N, width]``."""
        end = start + tile.shape[1]
        if self.bias is not None:
            self.bias[start:end] = tile.sum(dim=0)
        tile = tile.to(self.head.inputs.dtype)
        with torch.autocast(tile.device.type, enabled=False):
            if self.hidden is not None:
                self.hidden += tile @ self.head.rows(start)
            if self.weight is not None:
                self.weight[start:end] = tile.T @ self.head.inputs

    def result(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The gradients in the dtypes of their inputs."""
        hidden = None if self.hidden is None else self.hidden.to(self.head.hidden.dtype)
        return hidden, self.weight, self.bias


def _logit_gradient(
    start: int,
    logits: Tensor,
    targets: Tensor,
    log_normalizer: Tensor,
    entropies: Tensor,
    grad_log_probs: Tensor | None,
    grad_entropies: Tensor | None,
) -> Tensor:
    """Gradient of the logits of a tile, which is overwritten.

    ``d log p_y / d x_j = [j = y] - p_j`` and ``d entropy / d x_j = -p_j (log p_j + entropy)``.
    """
    if grad_log_probs is None:
        grad_log_probs = torch.zeros_like(log_normalizer)
    log_probs = logits.sub_(log_normalizer[:, None])
    if grad_entropies is None:
        tile = log_probs.exp_().mul_(-grad_log_probs[:, None])
    else:
        probabilities = log_probs.exp()
        tile = log_probs.add_(entropies[:, None]).mul_(grad_entropies[:, None]).add_(grad_log_probs[:, None])
        tile.mul_(probabilities).neg_()
    column, inside = _columns(targets, start, tile.shape[1])
    at_target = torch.where(inside, grad_log_probs, 0.0)[:, None]
    return tile.scatter_(1, column, tile.gather(1, column) + at_target)


def _columns(targets: Tensor, start: int, width: int) -> tuple[Tensor, Tensor]:
    """Column of each target in a tile, ``[N, 1]``, clamped into it, and whether it lies inside, ``[N]``."""
    column = targets - start
    return column.clamp(0, width - 1)[:, None], (column >= 0) & (column < width)


def _slice_width(tokens: int, vocabulary: int, chunk_tokens: int | None) -> int:
    budget = TILE_BYTES // 4 if chunk_tokens is None else chunk_tokens * vocabulary
    return min(vocabulary, max(MINIMUM_SLICE, budget // max(1, tokens)))


def _product_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    if torch.is_autocast_enabled(hidden.device.type):
        return torch.get_autocast_dtype(hidden.device.type)
    return torch.promote_types(hidden.dtype, weight.dtype)


def _check(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> None:
    fit = hidden.ndim == weight.ndim == 2 and hidden.shape[1] == weight.shape[1] and targets.shape == hidden.shape[:1]
    if not fit or (bias is not None and bias.shape != weight.shape[:1]):
        shapes = [None if x is None else tuple(x.shape) for x in (hidden, weight, bias, targets)]
        raise ValueError(f"hidden [N, H], weight [V, H], bias [V] and targets [N] do not fit: {shapes}")
    if len(targets) and (int(targets.min()) < 0 or int(targets.max()) >= len(weight)):
        raise ValueError(f"targets lie outside the vocabulary of {len(weight)}")
