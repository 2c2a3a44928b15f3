"""What starting vLLM does to this process, undone; and the check that it took the weights it was given."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from r2vpo.errors import RolloutError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ENVIRONMENT = {
    # Engine and trainer share a process: weights are handed over as tensors, and nothing is pickled.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
    "VLLM_NO_USAGE_STATS": "1",
    # Without a tokenizer, which it does not need here, vLLM logs a page of warnings at each start.
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # The default binds every thread to cores of its own, also when another process has them.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
"""Set before vllm is imported, where the user has not set them."""
RESTORED = ("LOCAL_WORLD_SIZE", "LD_PRELOAD")
"""Variables that vLLM sets for itself and that mean something to launchers and child processes of the trainer."""
PROBE_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}
"""Largest log-prob difference of a probe token that counts as rounding. A stale head was seen to be off by 1.4 to 4."""


@contextmanager
def starting_vllm() -> Iterator[None]:
    """Set :data:`ENVIRONMENT`; afterwards undo what the start of vLLM did to the rest of the process."""
    for name, default in ENVIRONMENT.items():
        os.environ.setdefault(name, default)
    before = {name: os.environ.get(name) for name in RESTORED}
    set_num_threads = torch.set_num_threads
    try:
        with random_state_kept():
            yield
    finally:
        torch.set_num_threads = set_num_threads
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Give Python's, NumPy's and torch's generators back in the state they were in."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (vLLM seeds the legacy generator)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def process_group_kept() -> Iterator[None]:
    """Let nothing destroy torch's default process group, which was there before vLLM."""
    destroy = torch.distributed.destroy_process_group

    def destroy_others(group: Any = None) -> None:
        if group is not None:
            destroy(group)

    torch.distributed.destroy_process_group = destroy_others
    try:
        yield
    finally:
        torch.distributed.destroy_process_group = destroy


@torch.no_grad()
def model_log_probs(model: PreTrainedModel, prompt: Sequence[int], tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    """Log-probabilities ``[T]`` of sampled tokens at temperature 1, from one forward pass of ``model``."""
    ids = torch.tensor([[*prompt, *tokens.tolist()]], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])[:, 0].cpu().numpy()


def check_probe(engine: NDArray[np.float32], trainer: NDArray[np.float32], dtype: str) -> None:
    """Compare log-probs of the same tokens after a weight sync.

    Args:
        engine, trainer: Log-probs ``[T]`` from the generating engine and from the trained model.
        dtype: Of the engine; sets the tolerance (:data:`PROBE_TOLERANCE`).

    Raises:
        RolloutError: They differ by more than rounding, so some weights did not arrive.
    """
    tolerance = PROBE_TOLERANCE.get(dtype, max(PROBE_TOLERANCE.values()))
    difference = float(np.abs(engine - trainer).max())
    if not difference <= tolerance:
        raise RolloutError(
            f"after the weight sync vLLM's log-probs are off by {difference:.3g} (at most {tolerance:g} in {dtype} is "
            "rounding): some weights are stale, or vLLM computes another model"
        )
