"""verl's configuration, and TransferQueue under a local Ray: heavy, so imported only where a test asks for them."""

import pytest


@pytest.fixture(scope="package")
def composed():
    """verl's whole configuration with what the entry point fills in."""
    from hydra import compose, initialize_config_module
    from verl_local import SETTINGS

    from r2vpo.llm.verl.main import FILLED_IN

    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=[*FILLED_IN, *SETTINGS])


@pytest.fixture
def config(composed):
    return composed.copy()


@pytest.fixture(scope="package")
def cluster():
    import ray
    import transfer_queue as tq
    from omegaconf import OmegaConf

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20)
    tq.init(OmegaConf.create({"backend": {"SimpleStorage": {"num_data_storage_units": 1}}}))
    yield
    tq.close()
    ray.shutdown()


@pytest.fixture
def queue(cluster):
    import transfer_queue as tq
    from verl_local import empty

    yield
    for partition in tq.kv_list() or {}:
        empty(partition)
