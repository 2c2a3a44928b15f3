import os

import pytest
import torch

REFUSED = pytest.StashKey[dict[str, set[str]]]()
"""Generated inputs that were refused, by the name of the error; tests/fuzz fills it."""


def pytest_configure(config):
    config.stash[REFUSED] = {}


@pytest.fixture(scope="session")
def refusals(request):
    return request.config.stash[REFUSED]


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # of pytest-xdist: to the process that started this one
        session.config.workeroutput["refused"] = {
            kind: sorted(inputs) for kind, inputs in session.config.stash[REFUSED].items()
        }


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    for kind, inputs in getattr(node, "workeroutput", {}).get("refused", {}).items():
        node.config.stash[REFUSED].setdefault(kind, set()).update(inputs)


def pytest_terminal_summary(terminalreporter, config):
    refused = config.stash[REFUSED]
    if refused:
        kinds = ", ".join(f"{len(inputs)} {kind}" for kind, inputs in sorted(refused.items()))
        total = sum(map(len, refused.values()))
        terminalreporter.write_line(f"generated inputs that were refused: {total} distinct ones ({kinds})")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def compile_cache(tmp_path_factory, monkeypatch):
    """A cache of compiled functions that starts empty with the test session and is shared by its tests."""
    session = tmp_path_factory.getbasetemp()
    path = (session.parent if "PYTEST_XDIST_WORKER" in os.environ else session) / "compiled"
    monkeypatch.setenv("R2VPO_CACHE", str(path))
    return path
