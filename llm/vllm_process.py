"""Keep what belongs to the trainer as it was while vLLM lives in the same process.

Starting vLLM 0.32 seeds every global random generator with 0, replaces ``torch.set_num_threads`` by a function that
does nothing and changes environment variables; generating consumes torch's generator; stopping destroys the default
process group. A run that must resume bit for bit, or that has other processes to talk to, can have none of that.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

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

    def destroy_others(group: object = None) -> None:
        if group is not None:
            destroy(group)

    torch.distributed.destroy_process_group = destroy_others
    try:
        yield
    finally:
        torch.distributed.destroy_process_group = destroy
