"""Generated inputs, the same at every run; with ``HYPOTHESIS_PROFILE=deep`` many times as many, and new ones."""

import os

import pytest
from hypothesis import HealthCheck, settings

_COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
settings.register_profile("ci", max_examples=12, derandomize=True, **_COMMON)
settings.register_profile("deep", max_examples=500, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def refused(refusals):
    """Call it with the error, the input that it answered, and what it has to name."""

    def note(error, *wrong, names=""):
        assert names in str(error)
        refusals.setdefault(type(error).__name__, set()).add(repr(wrong))

    return note
