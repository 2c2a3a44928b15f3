"""Compiling a function of tensors ahead of time, and keeping the result on this machine."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from r2vpo.runs.cache import cache_directory, made_once

TensorFunction = Callable[..., tuple[Tensor, ...]]
"""Tensors in, tensors out; may change its arguments in place."""
Compiled = Callable[[list[Tensor]], list[Tensor]]
"""The same with lists. Shapes, dtypes and contiguity must be those of the example; nothing checks it."""

_PACKAGE = "function.pt2"


class CompilationError(RuntimeError):
    """PyTorch or the C++ compiler could not compile the function."""


def obstacle() -> str | None:
    """Why nothing can be compiled here, or None."""
    if not hasattr(torch._inductor, "aoti_load_package"):
        return f"PyTorch {torch.__version__} cannot compile ahead of time; 2.6 and later can"
    candidates = [os.environ.get("CXX", ""), "g++", "clang++", "cl"]
    if not any(shutil.which(name) for name in candidates if name):
        return "there is no C++ compiler (g++ or clang++)"
    return None


class CompiledFunction:
    """A function traced on example arguments, to be compiled for their shapes and this many torch threads.

    Tracing takes a fraction of a second. What was compiled before is found again by the traced graph itself, so a
    change to any line that the function runs through is a new entry in the cache.

    Args:
        function: Free of control flow that depends on values.
        example: Contiguous tensors of the shapes and dtypes to compile for; they are not changed.
    """

    def __init__(self, function: TensorFunction, example: Sequence[Tensor]) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx

        self._example = tuple(tensor.clone() for tensor in example)
        self._graph = make_fx(function)(*self._example)
        self._name = f"compiled/{_fingerprint(self._graph, self._example)}"

    @property
    def is_cached(self) -> bool:
        """Whether an earlier run on this machine has compiled it."""
        return (cache_directory() / self._name).is_dir()

    def load(self) -> Compiled:
        """Compile, or find again what was compiled.

        Raises:
            CompilationError: With what PyTorch or the compiler said.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # PyTorch's, about itself
                loaded = torch._inductor.aoti_load_package(str(made_once(self._name, self._compile) / _PACKAGE))
        except Exception as error:
            raise CompilationError(f"{type(error).__name__}: {error}") from error
        # The package's own call flattens nested arguments at each call, for a fifth of the time of a small step.
        run: Compiled = loaded.loader.run
        return run

    def _compile(self, directory: Path) -> None:
        exported = torch.export.export(self._graph, self._example, strict=False)
        torch._inductor.aoti_compile_and_package(exported, package_path=str(directory / _PACKAGE))


def _fingerprint(graph: torch.fx.GraphModule, example: Sequence[Tensor]) -> str:
    """Of everything the compiled code depends on."""
    parts = [
        graph.code,
        *(f"{name}={value.tolist()}" for name, value in sorted(vars(graph).items()) if isinstance(value, Tensor)),
        *(f"{name}={value.tolist()}" for name, value in sorted(graph.named_buffers())),
        *(f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in example),
        f"{torch.__version__} {torch.get_num_threads()} {torch.backends.cpu.get_cpu_capability()}",
        f"{platform.machine()} {platform.system()} {platform.processor()}",
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
