"""The version check of adapters: their host libraries change the methods that adapters override."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet

from r2vpo.errors import HostVersionError


def require_host(distribution: str, supported: str, extra: str) -> str:
    """Make sure that an adapter runs on a version of its host library that it was written for.

    Args:
        distribution: Name on the package index, such as ``"trl"``.
        supported: Supported range as a version specifier, such as ``">=1.16,<1.17"``.
        extra: Extra of this package that installs it.

    Returns:
        The installed version.

    Raises:
        HostVersionError: Not installed, or a version outside the range.
    """
    remedy = f'pip install "r2vpo[{extra}]"'
    try:
        installed = version(distribution)
    except PackageNotFoundError:
        message = f"{distribution} is not installed; this adapter needs {distribution}{supported}: {remedy}"
        raise HostVersionError(message) from None
    if not SpecifierSet(supported).contains(installed, prereleases=True):
        message = f"{distribution} {installed} is not supported; this adapter needs {distribution}{supported}: {remedy}"
        raise HostVersionError(message)
    return installed
