import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def _compiled_here(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture
def compile_cache(_compiled_here, monkeypatch):
    """A cache of compiled functions that starts empty with the test session and is shared by its tests."""
    monkeypatch.setenv("R2VPO_CACHE", str(_compiled_here))
    return _compiled_here
