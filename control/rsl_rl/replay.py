"""From rsl_rl's rollout storage to training samples: what is kept for replay, and what is made of it later.

========================  =================================================  ===========================
name in a sample          meaning                                            shape
========================  =================================================  ===========================
``observations``          raw, one tensor per observation group              TensorDict, batch size [n]
``actions``               as sampled, before any clipping                    ``[n, A]``
``old_log_prob``          under the policy at which the ratio is 1           ``[n]``
``values``                of the critic at the start of the update           ``[n]``
``returns``               value targets                                      ``[n]``
``advantages``            not normalised                                     ``[n]``
``weight``                of the advantage, once that is normalised          ``[n]``
========================  =================================================  ===========================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from rsl_rl.storage import RolloutStorage
from tensordict import TensorDict
from torch import Tensor

from r2vpo.advantages import offpolicy_estimates
from r2vpo.replay import Iteration, proximal_weights
from r2vpo.validation import Anchor

_NOW, _LAST = "observations/", "last_observations/"


def stored_rollout(
    storage: RolloutStorage, time_outs: Tensor, last_observations: TensorDict, gamma: float
) -> Iteration:
    """Copy one rollout out of the storage, raw: plain tensors that can be saved and replayed under another critic.

    Args:
        storage: Full, T steps of N environments.
        time_outs: Where the environment reported a time-out, bool ``[T, N]``.
        last_observations: After the last step, batch size [N].
        gamma: Discount with which rsl_rl added the value at time-outs to the rewards; it is taken off again.

    Returns:
        ``actions`` ``[T, N, A]``; ``old_log_prob``, ``rewards``, ``done``, ``time_outs`` ``[T, N]``; and the
        observation groups, ``[T, N, ...]`` and for the last ones ``[N, ...]``.
    """
    rewards = storage.rewards.squeeze(-1) - gamma * storage.values.squeeze(-1) * time_outs
    rollout = {
        "actions": storage.actions.clone(),
        "old_log_prob": storage.actions_log_prob.squeeze(-1).clone(),
        "rewards": rewards,
        "done": storage.dones.squeeze(-1).bool(),
        "time_outs": time_outs.clone(),
    }
    rollout |= {_NOW + name: values.clone() for name, values in storage.observations.items()}
    return rollout | {_LAST + name: values.clone() for name, values in last_observations.items()}


def fresh_samples(storage: RolloutStorage) -> TensorDict:
    """Samples of the rollout in the storage, with rsl_rl's own returns; batch size [T * N]. Either anchor is theirs."""
    values, returns = storage.values.squeeze(-1), storage.returns.squeeze(-1)
    log_prob, weight = storage.actions_log_prob.squeeze(-1), torch.ones_like(values)
    return _samples(storage.observations, storage.actions, log_prob, values, returns, returns - values, weight)


def replayed_samples(
    rollout: Mapping[str, Tensor],
    log_prob: Callable[[TensorDict, Tensor], Tensor],
    value: Callable[[TensorDict], Tensor],
    *,
    gamma: float,
    gae_lambda: float,
    trace_cap: float,
    anchor: Anchor = "behaviour",
) -> TensorDict:
    """Samples of an older rollout, with advantages and value targets of the current policy and critic.

    At a time-out the value of the last observation stands for that of its successor, as rsl_rl has it.

    Args:
        rollout: From :func:`stored_rollout`.
        log_prob: Of actions ``[n, A]`` at observations, batch size [n], under the current policy: ``[n]``.
        value: Of observations under the current critic: ``[n]``.
        gamma, gae_lambda, trace_cap: See :func:`r2vpo.advantages.offpolicy_estimates`.
        anchor: Where the ratio is 1: at the policy that acted, or, with weights for that, at the current one.

    Returns:
        Samples, batch size [T * N].
    """
    done, time_outs = rollout["done"], rollout["time_outs"]
    observations = observation_groups(rollout, done.shape)
    flat = observations.flatten(0, 1)
    values = value(flat).view(done.shape)
    current, old_log_prob = log_prob(flat, rollout["actions"].flatten(0, 1)).view(done.shape), rollout["old_log_prob"]
    last_values = value(observation_groups(rollout, done.shape[1:], _LAST))
    # The recursion runs in NumPy on the host: [T, N] numbers, a few megabytes beside the observations that stay put.
    ended, own_values = done.cpu().numpy(), _host(values)
    advantages, returns, _ = offpolicy_estimates(
        _host(rollout["rewards"]),
        own_values,
        _host(last_values),
        own_values[ended],
        (done & ~time_outs).cpu().numpy(),
        ended,
        _host(current - old_log_prob),
        gamma=gamma,
        gae_lambda=gae_lambda,
        cap=trace_cap,
    )
    weight = torch.ones_like(values)
    if anchor == "proximal":
        old_log_prob, weight = current, proximal_weights(current, old_log_prob)
    targets, estimates = (torch.from_numpy(array).to(values) for array in (returns, advantages))
    return _samples(observations, rollout["actions"], old_log_prob, values, targets, estimates, weight)


def observation_groups(rollout: Mapping[str, Tensor], batch_size: torch.Size, prefix: str = _NOW) -> TensorDict:
    """Observation groups of a stored rollout under their own names."""
    groups = {name.removeprefix(prefix): values for name, values in rollout.items() if name.startswith(prefix)}
    return TensorDict(groups, batch_size=batch_size)


@torch.no_grad()
def in_chunks(function: Callable[..., Tensor], size: int, *inputs: Tensor | TensorDict) -> Tensor:
    """``function`` of ``size`` rows at a time, so that memory is what a minibatch needs."""
    return torch.cat([function(*(x[i : i + size] for x in inputs)) for i in range(0, len(inputs[0]), size)])


def _samples(
    observations: TensorDict,
    actions: Tensor,
    old_log_prob: Tensor,
    values: Tensor,
    returns: Tensor,
    advantages: Tensor,
    weight: Tensor,
) -> TensorDict:
    samples = {
        "observations": observations,
        "actions": actions,
        "old_log_prob": old_log_prob,
        "values": values,
        "returns": returns,
        "advantages": advantages,
        "weight": weight,
    }
    return TensorDict(samples, batch_size=old_log_prob.shape).flatten(0, 1)


def _host(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()
