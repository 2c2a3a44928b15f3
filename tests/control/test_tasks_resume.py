"""R2VPO trains on our tasks, and a resumed run is the uninterrupted one bit for bit."""

import pytest
from resuming import ITERATION, SMALL, StopAfter, assert_same_tree, metrics

from r2vpo.control import R2VPO
from r2vpo.envs.tasks import TASKS
from r2vpo.runs.checkpoint import load_tree

IDS = [task.id for task in TASKS if task.id.startswith("r2vpo/")]


@pytest.mark.parametrize("env", IDS)
def test_resumed_run_is_the_uninterrupted_run(tmp_path, env):
    settings = {"algo": "off-policy", "total_steps": 6 * ITERATION, "seed": 3, **SMALL}
    for name, stop in (("whole", None), ("parts", StopAfter(3))):
        model = R2VPO(env, run_dir=tmp_path / name, **settings)
        model.learn(callback=stop)
        model.close()
    resumed = R2VPO.resume(tmp_path / "parts")
    assert resumed.num_timesteps == 3 * ITERATION
    resumed.learn()
    resumed.close()
    one, other = (load_tree(tmp_path / name / "checkpoints" / "latest.zip") for name in ("whole", "parts"))
    assert_same_tree(one, other)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")
