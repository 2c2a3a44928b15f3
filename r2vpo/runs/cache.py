"""Models that are made once on this machine and kept: a directory each, whole or absent."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def cache_directory() -> Path:
    """``$R2VPO_CACHE``, or ``r2vpo`` in the user's cache directory; not created here."""
    if os.environ.get("R2VPO_CACHE"):
        return Path(os.environ["R2VPO_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "r2vpo"


def made_once(name: str, make: Callable[[Path], None], complete: Callable[[Path], bool] = Path.is_dir) -> Path:
    """The cached directory ``name``, made first where it is absent.

    It is made beside its place and renamed into it, so a run that dies leaves nothing that looks finished. Of several
    processes that ask at once, one makes it and the others wait.

    Args:
        name: Of the directory; change it whenever what ``make`` makes changes.
        make: Fills the empty directory it is given.
        complete: Whether the directory has everything; what somebody else left half made is replaced.
    """
    target = cache_directory() / name
    if complete(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        if complete(target):
            return target
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            make(scratch)
            scratch.chmod(0o755)  # mkdtemp's are private, but a cache may be shared
            shutil.rmtree(target, ignore_errors=True)
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target
