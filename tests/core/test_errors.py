"""Adapters refuse host libraries they were not written for, and say which they were."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from r2vpo.errors import HostVersionError, require_host


def test_a_supported_version_is_returned():
    assert require_host("torch", ">=2.4", "control") == version("torch")


def test_another_version_is_refused_with_the_range_and_the_remedy():
    with pytest.raises(HostVersionError, match=r"numpy .* is not supported; .*numpy<1\.0.*r2vpo\[control\]"):
        require_host("numpy", "<1.0", "control")


def test_a_missing_library_is_refused_as_an_import_error():
    with pytest.raises(ImportError, match=r"no-such-library is not installed; .*no-such-library>=1,<2"):
        require_host("no-such-library", ">=1,<2", "sb3")
