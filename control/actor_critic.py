"""Policy and value function as one module: what a gradient step differentiates."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from r2vpo.control.gaussian import GaussianPolicy, ValueFunction
from r2vpo.update import Scored


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
