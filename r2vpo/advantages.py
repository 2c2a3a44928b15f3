"""Advantages: GAE with true truncation bootstrap, on data of an older policy too; group-relative; standardised."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from r2vpo.processes import Processes

Array = NDArray[np.floating]

ADVANTAGE_EPS = 1e-8
"""Added to the standard deviation of advantages, here as in Stable-Baselines3 and rsl_rl."""


class Estimates(NamedTuple):
    """What one rollout is worth under the current networks, each ``[T, N]``."""

    advantages: Array
    value_targets: Array
    trace_weights: Array
    """Truncated importance weights, see :func:`truncated_importance_weights`; 1 on-policy."""


def offpolicy_estimates(
    rewards: Array,
    values: Array,
    last_values: Array,
    final_values: Array,
    terminated: NDArray[np.bool_],
    done: NDArray[np.bool_],
    log_ratio: Array,
    *,
    gamma: float,
    gae_lambda: float,
    cap: float = 1.0,
) -> Estimates:
    """Advantages and value targets of a rollout that another policy may have collected.

    :func:`generalized_advantages` along traces weighted by truncated ratios, and the :func:`value_targets` of V-trace;
    with a ``log_ratio`` of 0 and ``cap`` of at least 1 that is GAE and its return.

    Args:
        rewards, values: r_t and V(s_t), ``[T, N]``.
        last_values, final_values: See :func:`successor_values`.
        terminated, done: See :func:`generalized_advantages`.
        log_ratio: Log of the current policy's probability of the action over that of the policy that acted, ``[T, N]``.
        gamma: Discount, in [0, 1].
        gae_lambda: Trace decay, in [0, 1].
        cap: Of the importance weights.
    """
    weights = truncated_importance_weights(log_ratio, cap)
    next_values = successor_values(values, last_values, done, final_values)
    traces = {"gamma": gamma, "gae_lambda": gae_lambda}
    advantages = generalized_advantages(rewards, values, next_values, terminated, done, **traces, trace_weights=weights)
    return Estimates(advantages, value_targets(values, advantages, weights), weights)


def standardised(values: Tensor, processes: Processes | None = None) -> Tensor:
    """Values less their mean and over their standard deviation (unbiased) plus :data:`ADVANTAGE_EPS`.

    Args:
        values: ``[..., n]``, over the last axis; ``[n]`` where processes share them.
        processes: Those that hold a part each; mean and deviation are then over all parts, summed in float64. None
            leaves both to torch.
    """
    if processes is None:
        centred, deviation = values - values.mean(-1, keepdim=True), values.std(-1, keepdim=True)
    else:
        sums = torch.stack([values.double().sum(), values.new_tensor(len(values), dtype=torch.float64)])
        total, count = processes.sum(sums)
        centred = values - (total / count).to(values)
        squares = processes.sum(centred.double().square().sum())
        deviation = (squares / (count - 1)).sqrt().to(values)
    return centred.div(deviation + ADVANTAGE_EPS)


def successor_values(values: Array, last_values: Array, done: NDArray[np.bool_], final_values: Array) -> Array:
    """Value of the state that really followed each step.

    Within an episode that is the value of the next stored state. Where an episode ended the next stored state
    belongs to another episode, and the value of the true final observation is put in its place.

    Args:
        values: V(s_t), ``[T, N]``.
        last_values: Values of the states after the last step, ``[N]``.
        done: Where an episode terminated or was truncated at step t, ``[T, N]``.
        final_values: Values of the final observations, one for each True in ``done`` in row-major order, ``[K]``.

    Returns:
        V(s_{t+1}), ``[T, N]``.
    """
    following = np.concatenate([values[1:], last_values[None]], axis=0)
    following[done] = final_values
    return following


def generalized_advantages(
    rewards: Array,
    values: Array,
    next_values: Array,
    terminated: NDArray[np.bool_],
    done: NDArray[np.bool_],
    *,
    gamma: float,
    gae_lambda: float,
    trace_weights: Array | None = None,
) -> Array:
    """Generalized advantage estimation (arXiv 1506.02438, Eq. 16), with optional off-policy trace weights.

    ``A_t = d_t + gamma gae_lambda c_{t+1} A_{t+1}`` within an episode, where
    ``d_t = r_t + gamma V(s_{t+1}) - V(s_t)``. Termination removes the bootstrap value; truncation keeps it. Both
    stop the sum. With trace weights ``c = min(1, rho)`` the estimate follows the current policy on data of an
    older one, as V-trace does (arXiv 1802.01561, Eq. 1, with the traces tapered by ``gae_lambda``); the ratio of
    the action itself is left to the objective. Without them, or on-policy, it is plain GAE.

    Args:
        rewards, values, next_values: ``[T, N]``; ``next_values`` as from :func:`successor_values`.
        terminated: Where the episode reached a terminal state, ``[T, N]``.
        done: Where the episode ended for any reason, ``[T, N]``.
        gamma: Discount, in [0, 1].
        gae_lambda: Trace decay, in [0, 1].
        trace_weights: ``[T, N]`` or None.

    Returns:
        Advantages, ``[T, N]``.
    """
    deltas = rewards + gamma * np.where(terminated, 0.0, next_values) - values
    decay = np.where(done, 0.0, gamma * gae_lambda)
    if trace_weights is not None:
        decay[:-1] *= trace_weights[1:]
    return discounted_sums(deltas, decay)


def discounted_sums(values: Array, decay: Array) -> Array:
    """``x_t = values_t + decay_t x_{t+1}`` along the first axis, with nothing after the end.

    Args:
        values, decay: ``[T, ...]``, one shape.

    Returns:
        ``[T, ...]``.
    """
    if decay.size and decay.max() > 1.0:
        return _sums_one_by_one(values, decay)
    # Sums over 1, 2, 4, ... steps: log2 T passes over whole arrays instead of T over a few numbers each. It multiplies
    # decays with each other, which cannot overflow while none is above 1.
    sums, factors = values.copy(), decay.copy()
    span = 1
    while span < len(sums):
        sums[:-span] += factors[:-span] * sums[span:]
        factors[:-span] *= factors[span:]
        span *= 2
    return sums


def _sums_one_by_one(values: Array, decay: Array) -> Array:
    sums = np.empty_like(values)
    following = np.zeros_like(values[0])
    for t in range(len(values) - 1, -1, -1):
        following = values[t] + decay[t] * following
        sums[t] = following
    return sums


def truncated_importance_weights(log_ratio: Array, cap: float = 1.0) -> Array:
    """``min(cap, rho)``, V-trace's truncated weights (arXiv 1802.01561, section 4.1); any shape."""
    weights: Array = np.exp(np.minimum(log_ratio, np.log(cap)))
    return weights


def value_targets(values: Array, advantages: Array, trace_weights: Array) -> Array:
    """V-trace's target of the value function (arXiv 1802.01561, Eq. 1); on-policy, where weights are 1, GAE's return.

    The correction to V(s_t) is weighted by the truncated ratio of the action itself, which the advantage leaves out.

    Args:
        values: V(s_t), any shape.
        advantages: From :func:`generalized_advantages`, same shape.
        trace_weights: From :func:`truncated_importance_weights`, same shape.
    """
    return values + np.minimum(trace_weights, 1.0) * advantages


def group_relative_advantages(
    rewards: Array, group_size: int, valid: NDArray[np.bool_] | None = None, eps: float = 1e-6, *, scale: bool = True
) -> Array:
    """Rewards standardised within each group of answers to one prompt (arXiv 2601.03320, Eq. 3).

    Args:
        rewards: ``[B]``, groups contiguous.
        group_size: Answers per prompt, G; divides B.
        valid: ``[B]``; False where a reward is missing. Those take no part in the mean and the standard deviation
            and get advantage 0. A group with fewer than two valid rewards gets 0 throughout.
        eps: Added to the standard deviation (population); a group of equal rewards gets 0.
        scale: False only subtracts the mean (Dr. GRPO, arXiv 2503.20783).

    Returns:
        Advantages, ``[B]``.

    Raises:
        ValueError: B is not a multiple of ``group_size``.
    """
    if group_size < 1 or len(rewards) % group_size:
        raise ValueError(f"{len(rewards)} rewards do not divide into groups of {group_size}")
    kept = np.ones(len(rewards), dtype=bool) if valid is None else valid
    # In float64: in single precision the rounding of the mean, divided by eps, would pass for an advantage.
    grouped = np.where(kept, np.asarray(rewards, dtype=np.float64), 0.0).reshape(-1, group_size)
    mask = kept.reshape(-1, group_size)
    count = mask.sum(axis=1, keepdims=True)
    centred = np.where(mask, grouped - grouped.sum(axis=1, keepdims=True) / np.maximum(count, 1), 0.0)
    if not scale:
        return np.where(count > 1, centred, 0.0).reshape(-1)
    std = np.sqrt(np.square(centred).sum(axis=1, keepdims=True) / np.maximum(count, 1))
    return np.where(count > 1, centred / (std + eps), 0.0).reshape(-1)
