"""Acting in the environment: the policy's mean network in NumPy, a fifth of the cost of torch at small batches."""

from __future__ import annotations

import numpy as np
from torch import nn

from r2vpo.control.gaussian import GaussianPolicy


class NumpyActor:
    """The mean action of a policy whose weights stay as they are for one rollout.

    It shares its weights with the policy and copies the rest. Its rounding may differ from torch's in the last bit,
    which is of no consequence: the action is what counts, and it is scored by the policy itself.
    """

    def __init__(self, policy: GaussianPolicy) -> None:
        layers = [layer for layer in policy.network if isinstance(layer, nn.Linear)]
        self.layers = [(layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in layers]
        normalizer = policy.normalizer
        self.enabled = normalizer.enabled
        self.shift, self.scale = normalizer.shift.numpy(), normalizer.scale.numpy()
        self.low, self.high = (np.array(sign * normalizer.bound, dtype=np.float32) for sign in (-1.0, 1.0))
        self._rows = 0

    def mean(self, observations: np.ndarray) -> np.ndarray:
        """Mean action ``[N, A]`` for raw observations ``[N, D]``, both float32; overwritten by the next call."""
        if len(observations) != self._rows:
            self._allocate(*observations.shape)
        values = observations
        if self.enabled:
            values = np.subtract(observations, self._shift, self._inputs)
            np.multiply(values, self._scale, values)
            np.maximum(values, self.low, values)
            np.minimum(values, self.high, values)
        for weight, bias, outputs in self._hidden:
            values = values.dot(weight, outputs)
            np.add(values, bias, values)
            np.tanh(values, values)
        weight, bias, outputs = self._last
        return np.add(values.dot(weight, outputs), bias, outputs)

    def _allocate(self, rows: int, size: int) -> None:
        self._rows = rows
        self._inputs = np.empty((rows, size), dtype=np.float32)
        self._shift, self._scale = repeated(self.shift, rows), repeated(self.scale, rows)
        layers = [(weight, repeated(bias, rows)) for weight, bias in self.layers]
        *self._hidden, self._last = [(weight, bias, np.empty_like(bias)) for weight, bias in layers]


def repeated(row: np.ndarray, rows: int) -> np.ndarray:
    """``[K]`` to ``[rows, K]``: NumPy takes a third of the time where both operands have the same shape."""
    return np.tile(row, (rows, 1))
