"""Acting in the environment: the policy's mean network in NumPy, a third of the cost of torch at small batches."""

from __future__ import annotations

import numpy as np
from torch import nn

from r2vpo.control.gaussian import GaussianPolicy


class NumpyActor:
    """The mean action of a policy whose weights stay as they are for one rollout.

    It shares memory with the policy. Its rounding may differ from torch's in the last bit, which is of no
    consequence: the action is what counts, and it is scored by the policy itself.
    """

    def __init__(self, policy: GaussianPolicy) -> None:
        layers = [layer for layer in policy.network if isinstance(layer, nn.Linear)]
        self.layers = [(layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in layers]
        normalizer = policy.normalizer
        self.enabled, self.bound = normalizer.enabled, normalizer.bound
        self.shift, self.scale = normalizer.shift.numpy(), normalizer.scale.numpy()

    def mean(self, observations: np.ndarray) -> np.ndarray:
        """Mean action ``[N, A]`` for raw observations ``[N, D]``, both float32."""
        hidden = observations
        if self.enabled:
            hidden = (observations - self.shift) * self.scale
            np.minimum(np.maximum(hidden, -self.bound, out=hidden), self.bound, out=hidden)
        for weight, bias in self.layers[:-1]:
            hidden = hidden @ weight
            hidden += bias
            np.tanh(hidden, out=hidden)
        weight, bias = self.layers[-1]
        return hidden @ weight + bias
