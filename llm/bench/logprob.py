"""Per-token log-probs, forward and backward, beside the naive way: logits of all tokens, log_softmax, gather."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from r2vpo.errors import ConfigError
from r2vpo.llm.bench.turns import Turns
from r2vpo.llm.bench.workload import MIB
from r2vpo.processes import peak_mib

if TYPE_CHECKING:
    from torch import Tensor


def measure_log_probs(
    who: str,
    turns: Turns,
    passes: int,
    tokens: int,
    vocabulary: int,
    hidden: int,
    dtype: str = "float32",
    device: str = "cpu",
    threads: int = 1,
) -> dict[str, float]:
    """Forward and backward passes in this process: one for its memory, then one each turn for its time.

    Args:
        who: ``ours`` or ``naive``.
        turns: One for each timed pass; reports ``seconds``.
        passes: Number of those.
        tokens, vocabulary, hidden: Sizes of the hidden states and of the output layer, both of which get a gradient.
        dtype: Of both.
        device: ``cpu`` or ``cuda``.
        threads: Of torch on the CPU.

    Returns:
        ``mib`` of the first pass beyond its inputs: growth of the resident set, on a GPU of the allocated memory.
    """
    import torch

    if who not in ("ours", "naive"):
        raise ConfigError("who", who, "'ours' or 'naive'")
    torch.set_num_threads(threads)
    kind = getattr(torch, dtype)
    states = torch.empty(tokens, hidden, device=device, dtype=kind).normal_().requires_grad_()
    head = torch.empty(vocabulary, hidden, device=device, dtype=kind).normal_(std=0.02).requires_grad_()
    targets = torch.randint(vocabulary, (tokens,), device=device)
    few = min(vocabulary, 4096)
    _one_pass(who, states[:8].detach().requires_grad_(), head[:few].detach().requires_grad_(), targets[:8] % few)
    before = device_peak_mib(device, reset=True)
    _one_pass(who, states, head, targets)
    mib = device_peak_mib(device) - before
    for _ in range(passes):
        states.grad = head.grad = None
        turns.start()
        started = time.perf_counter()
        _one_pass(who, states, head, targets)
        if device == "cuda":
            torch.cuda.synchronize()
        turns.finish({"seconds": time.perf_counter() - started})
    return {"mib": mib}


def device_peak_mib(device: str, reset: bool = False) -> float:
    """Peak memory on a device, MiB; ``reset`` lets a GPU's peak start at what is held now."""
    if device == "cpu":
        return peak_mib()
    import torch

    torch.cuda.synchronize()
    if reset:
        torch.cuda.reset_peak_memory_stats()
    return torch.cuda.max_memory_allocated() / MIB


def _one_pass(who: str, states: Tensor, head: Tensor, targets: Tensor) -> None:
    import torch

    from r2vpo.llm.models.logprob import token_log_probs

    if who == "ours":
        log_probs = token_log_probs(states, head, None, targets)[0]
    else:
        table = torch.nn.functional.linear(states, head).float().log_softmax(-1)
        log_probs = table.gather(1, targets[:, None])
        del table
    log_probs.sum().backward()
