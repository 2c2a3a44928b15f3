"""Diagonal Gaussian policy and value function: separate tanh networks over shared observation statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from r2vpo.control.normalization import ObservationNormalizer
from r2vpo.policy import Policy
from r2vpo.update import Scored

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


class GaussianPolicy(Policy):
    """``a ~ N(mean(s), diag(std)^2)`` with a state-independent standard deviation.

    A batch holds raw ``observations`` ``[N, D]`` and ``actions`` ``[N, A]`` as sampled, before clipping or
    squashing to the bounds of the environment.

    Args:
        normalizer: Observation statistics, part of this module and of whatever is saved.
        action_size: A.
        hidden_sizes: Width of each tanh layer.
        log_std: First, lowest and highest logarithm of the standard deviation.
        generator: Source of the initial weights.
    """

    def __init__(
        self,
        normalizer: ObservationNormalizer,
        action_size: int,
        hidden_sizes: Sequence[int],
        log_std: tuple[float, float, float],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.normalizer = normalizer
        self.network = mlp(len(normalizer.shift), hidden_sizes, action_size, 0.01, generator)
        first, self.log_std_min, self.log_std_max = log_std
        self.log_std = nn.Parameter(torch.full((action_size,), float(first)))

    def mean(self, observations: Tensor) -> Tensor:
        """Mean action ``[N, A]`` for raw observations ``[N, D]``."""
        return run_mlp(self.network, self.normalizer(observations))

    def bounded_log_std(self) -> Tensor:
        """Logarithm of the standard deviation, ``[A]``, within its bounds."""
        return self.log_std.clamp(self.log_std_min, self.log_std_max)

    def log_prob(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Log-density of the batch's actions, ``[N]``."""
        return self.log_prob_standardised(self.normalizer(batch["observations"]), batch["actions"])

    def log_prob_standardised(self, inputs: Tensor, actions: Tensor) -> Tensor:
        """:meth:`log_prob` for observations that went through the normaliser already."""
        log_std = self.bounded_log_std()
        deviation = (actions - run_mlp(self.network, inputs)) * torch.exp(-log_std)
        return -0.5 * deviation.square().sum(-1) - (log_std + _HALF_LOG_TWO_PI).sum()

    def entropy(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Entropy in nats, the same for every element: ``[N]``."""
        return (self.bounded_log_std() + _HALF_LOG_TWO_PI + 0.5).sum().expand(len(batch["observations"]))


class ValueFunction(nn.Module):
    """V(s) in units of scaled rewards, from a network of its own.

    Args:
        normalizer: The policy's observation statistics.
        hidden_sizes: Width of each tanh layer.
        generator: Source of the initial weights.
    """

    def __init__(
        self, normalizer: ObservationNormalizer, hidden_sizes: Sequence[int], generator: torch.Generator
    ) -> None:
        super().__init__()
        self.normalizer = normalizer
        self.network = mlp(len(normalizer.shift), hidden_sizes, 1, 1.0, generator)

    def forward(self, observations: Tensor) -> Tensor:
        """Values ``[N]`` of raw observations ``[N, D]``."""
        return self.forward_standardised(self.normalizer(observations))

    def forward_standardised(self, inputs: Tensor) -> Tensor:
        """Values ``[N]`` of observations that went through the normaliser already."""
        return run_mlp(self.network, inputs).squeeze(-1)


def run_mlp(network: nn.Sequential, inputs: Tensor) -> Tensor:
    """What ``network(inputs)`` computes, without the cost of a module call per layer."""
    *hidden, last = (layer for layer in network if isinstance(layer, nn.Linear))
    for layer in hidden:
        inputs = torch.tanh(nn.functional.linear(inputs, layer.weight, layer.bias))
    return nn.functional.linear(inputs, last.weight, last.bias)


def mlp(
    inputs: int, hidden_sizes: Sequence[int], outputs: int, output_gain: float, generator: torch.Generator
) -> nn.Sequential:
    """Tanh network, orthogonal weights (gain sqrt 2, ``output_gain`` on the last layer), zero biases."""
    layers: list[nn.Module] = []
    sizes = [inputs, *hidden_sizes, outputs]
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        last = i == len(sizes) - 2
        linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
        nn.init.orthogonal_(linear.weight, output_gain if last else math.sqrt(2.0), generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, nn.Tanh()]
    return nn.Sequential(*layers)


class ActorCritic(nn.Module):
    """Scores minibatches; its parameters are all that is trained.

    Args:
        policy: The Gaussian policy.
        value_function: Over the same observation statistics.
        value_coef: Weight of the squared value error in the loss.
        entropy_coef: Weight of the entropy bonus.
    """

    def __init__(
        self, policy: GaussianPolicy, value_function: ValueFunction, value_coef: float, entropy_coef: float
    ) -> None:
        super().__init__()
        self.policy = policy
        self.value_function = value_function
        self.value_coef = value_coef
        self.entropy_coef = entropy_coef

    def forward(self, minibatch: Mapping[str, Tensor]) -> Scored:
        """Score samples ``[N]`` whose ``observations`` ``[N, D]`` are standardised already."""
        inputs = minibatch["observations"]
        error = self.value_function.forward_standardised(inputs) - minibatch["value_target"]
        auxiliary = self.value_coef * error.square().mean()
        if self.entropy_coef:
            auxiliary = auxiliary - self.entropy_coef * self.policy.entropy(minibatch).mean()
        return Scored(
            self.policy.log_prob_standardised(inputs, minibatch["actions"]),
            minibatch["old_log_prob"],
            minibatch["advantage"],
            age=minibatch["age"],
            auxiliary_loss=auxiliary,
        )
