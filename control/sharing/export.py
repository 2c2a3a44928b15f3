"""``r2vpo control export``: the policy as one ONNX or TorchScript file that needs nothing of this library to run.

The file takes raw observations and returns actions within their bounds: normalisation, mean network and bounds are all
inside. It is kept only if it answers like :meth:`r2vpo.control.R2VPO.predict`.
"""

from __future__ import annotations

import copy
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import Tensor, nn

from r2vpo.errors import CheckpointError, ConfigError, R2VPOError, RunDirectoryError
from r2vpo.runs.provenance import package_versions

if TYPE_CHECKING:
    from r2vpo.control.algorithm import R2VPO
    from r2vpo.control.collector import ActionBounds

Format = Literal["onnx", "torchscript"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torchscript": ".pt"}
INPUT, OUTPUT, ABOUT = "observations", "actions", "r2vpo"
"""Names in the file: of what goes in, of what comes out, and of the JSON about it."""
TOLERANCE = 1e-5
"""Largest difference from ``predict``, absolute up to actions of 1 and relative beyond."""
_CHECKED = 256
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class ExportCommand:
    """Write the policy of a trained agent as one file that runs without this library."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory, or a file written by save()."""
    format: Format = "onnx"
    """onnx runs in onnxruntime, in many languages; torchscript in PyTorch and in C++ with libtorch."""
    out: Path | None = None
    """File to write; policy.onnx or policy.pt beside the run when not given."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; prints the file and how far it is from ``predict``."""
    command = tyro.cli(ExportCommand, args=list(arguments), prog="r2vpo control export")
    from r2vpo.control.algorithm import R2VPO

    if not command.run.exists():
        raise CheckpointError(f"no run or model at {command.run}")
    folder = command.run if command.run.is_dir() else command.run.parent
    path = command.out or folder / f"policy{SUFFIXES[command.format]}"
    difference = export_policy(R2VPO.load(command.run), path, command.format)
    print(f"{path}  {path.stat().st_size:,} bytes, at most {difference:.1e} from predict on {_CHECKED} observations")
    return 0


def export_policy(model: R2VPO, path: str | Path, format: Format = "onnx") -> float:
    """Write the deterministic policy to one file and check it against ``model.predict(..., deterministic=True)``.

    Args:
        model: A trained agent.
        path: File to write; nothing is left there where the check fails.
        format: What reads it.

    Returns:
        The largest difference over 256 observations, on either side of what was seen in training and far beyond.

    Raises:
        ConfigError: No such format, or its packages are not installed.
        RunDirectoryError: The file cannot be written.
        R2VPOError: The file does not answer like the model.
    """
    if format not in SUFFIXES:
        raise ConfigError("format", format, f"one of {', '.join(SUFFIXES)}")
    path, policy, observations = Path(path), DeployedPolicy(model), probes(model)
    about = json.dumps(describe(model))
    write, read = (_write_onnx, _onnx) if format == "onnx" else (_write_torchscript, _torchscript)
    with TemporaryDirectory() as folder:
        scratch = Path(folder) / "policy"
        try:
            write(policy, torch.from_numpy(observations[:2]), scratch, about)
            difference = _difference(model, read(scratch), observations)
        except R2VPOError:
            raise
        except Exception as error:  # a network of the user's may hold anything
            raise R2VPOError(f"the policy cannot be written as {format}: {type(error).__name__}: {error}") from error
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(scratch, path)
        except OSError as error:
            raise RunDirectoryError(f"{path} cannot be written: {error.strerror or error}") from error
    return difference


class DeployedPolicy(nn.Module):
    """Raw observations ``[N, *shape]`` to the mean actions ``[N, *shape]`` within their bounds.

    Args:
        model: Its policy is copied.
    """

    def __init__(self, model: R2VPO) -> None:
        super().__init__()
        self.policy = copy.deepcopy(model.policy).cpu().eval().requires_grad_(False)
        self.origin = copy.deepcopy(self.policy.normalizer.origin) if _is_far(model) else None
        self.bounds = _Bounds(model.bounds)
        self.action_shape = model.action_space.shape
        self.observation_size = gym.spaces.flatdim(model.observation_space)

    def forward(self, observations: Tensor) -> Tensor:
        """Actions for a batch."""
        rows = observations.reshape(-1, self.observation_size)
        rows = rows if self.origin is None else (rows - self.origin).float()
        actions: Tensor = self.bounds(self.policy.mean(rows))
        return actions.reshape(-1, *self.action_shape)


class _Bounds(nn.Module):
    """What :class:`r2vpo.control.collector.ActionBounds` does, on tensors."""

    low: Tensor
    high: Tensor
    middle: Tensor
    half_range: Tensor

    def __init__(self, bounds: ActionBounds) -> None:
        super().__init__()
        self.kind = bounds.kind
        for name in ("low", "high", "middle", "half_range"):
            self.register_buffer(name, torch.from_numpy(getattr(bounds, name).copy()))

    def forward(self, samples: Tensor) -> Tensor:
        if self.kind == "tanh":
            return self.low + 0.5 * (torch.tanh(samples) + 1.0) * (self.high - self.low)
        if self.kind == "rescale":
            samples = self.middle + self.half_range * samples
        return torch.minimum(torch.maximum(samples.to(self.low.dtype), self.low), self.high)


def probes(model: R2VPO) -> np.ndarray:
    """``[256, *shape]`` observations around those of training, from 1 to 100 deviations off.

    Of the type that the file takes: float32, or float64 where observations lie too far from 0 for float32.
    """
    normalizer = model.policy.normalizer
    rng = np.random.default_rng(0)
    spread = np.repeat([1.0, 3.0, 10.0, 100.0], _CHECKED // 4)[:, None]
    deviations = rng.standard_normal((_CHECKED, len(normalizer.shift))) * spread
    centre = normalizer.origin + normalizer.mean
    rows = centre.numpy() + deviations * np.sqrt(normalizer.variance.numpy())
    rows = rows.astype(np.float64 if _is_far(model) else np.float32)
    return rows.reshape(-1, *model.observation_space.shape)


def describe(model: R2VPO) -> dict[str, Any]:
    """What the file says of itself: task, spaces, training and versions."""
    spaces, actions = {INPUT: model.observation_space, OUTPUT: model.action_space}, model.action_space
    return {
        "env": model.config.env,
        "objective": model.config.objective,
        "algo": model.config.algo,
        "trained_steps": model.num_timesteps,
        **{name: {"shape": list(space.shape)} for name, space in spaces.items()},
        # Flat, as JSON has them; None is an action without a bound.
        "low": [float(end) if np.isfinite(end) else None for end in actions.low.flat],
        "high": [float(end) if np.isfinite(end) else None for end in actions.high.flat],
        "versions": package_versions(),
    }


def _is_far(model: R2VPO) -> bool:
    return bool(model.policy.normalizer.origin.any())


def _difference(model: R2VPO, run: Run, observations: np.ndarray) -> float:
    wanted, _ = model.predict(observations, deterministic=True)
    scale = np.maximum(1.0, np.abs(wanted))
    found = run(observations), np.concatenate([run(row[None]) for row in observations[:8]])
    largest = max(float(np.max(np.abs(part - wanted[: len(part)]) / scale[: len(part)])) for part in found)
    if not largest <= TOLERANCE:
        raise R2VPOError(f"the exported policy is {largest:.1e} from predict, more than {TOLERANCE:.0e}: not written")
    return largest


def _write_onnx(policy: DeployedPolicy, example: Tensor, path: Path, about: str) -> None:
    _require_packages()
    batch = {0: torch.export.Dim("batch")}
    with _quiet():
        program = torch.onnx.export(
            policy,
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=(batch,),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props[ABOUT] = about
    program.save(path, external_data=False)


def _onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda observations: session.run([OUTPUT], {INPUT: observations})[0]


def _write_torchscript(policy: DeployedPolicy, example: Tensor, path: Path, about: str) -> None:
    with _quiet():
        torch.jit.save(torch.jit.trace(policy, example), path, _extra_files={ABOUT: about})


def _torchscript(path: Path) -> Run:
    with _quiet():
        module = torch.jit.load(path)
    return lambda observations: module(torch.from_numpy(observations)).numpy()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says here of packages that it misses and of its own future."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _require_packages() -> None:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError("format", "onnx", f"torchscript while {missing[0]} is missing: pip install 'r2vpo[export]'")
