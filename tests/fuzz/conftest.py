"""Generated inputs, the same at every run; with ``HYPOTHESIS_PROFILE=deep`` many times as many, and new ones."""

import collections
import os

import pytest
from hypothesis import HealthCheck, settings

_COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
settings.register_profile("ci", max_examples=12, derandomize=True, **_COMMON)
settings.register_profile("deep", max_examples=500, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

_refused: dict[str, set[str]] = collections.defaultdict(set)


@pytest.fixture(scope="session")
def refused():
    """Call it with the error, the input that it answered, and what it has to name."""

    def note(error, *wrong, names=""):
        assert names in str(error)
        _refused[type(error).__name__].add(repr(wrong))

    return note


def pytest_terminal_summary(terminalreporter):
    if _refused:
        kinds = ", ".join(f"{len(inputs)} {kind}" for kind, inputs in sorted(_refused.items()))
        total = sum(map(len, _refused.values()))
        terminalreporter.write_line(f"generated inputs that were refused: {total} distinct ones ({kinds})")
