"""Small runs that stop and go on, and what has to be equal then."""

import json

import numpy as np
import torch

from r2vpo.control import BaseCallback

SMALL = {"num_envs": 3, "rollout_steps": 40, "minibatch_size": 30, "epochs": 2, "eval_episodes": 0}
ITERATION = 120


class StopAfter(BaseCallback):
    def __init__(self, iterations):
        super().__init__()
        self.iterations = iterations

    def _on_step(self):
        return self.num_timesteps < self.iterations * ITERATION


def leaves(tree, path=""):
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{path}/{key}")
    elif isinstance(tree, list | tuple):
        for i, value in enumerate(tree):
            yield from leaves(value, f"{path}/{i}")
    else:
        yield path, tree


def assert_same_tree(one, other):
    one, other = dict(leaves(one)), dict(leaves(other))
    assert one.keys() == other.keys()
    for path, value in one.items():
        if path.endswith(("train_seconds", "started")):
            continue
        if isinstance(value, torch.Tensor | np.ndarray):
            assert np.array_equal(np.asarray(value), np.asarray(other[path]), equal_nan=True), path
        else:
            assert value == other[path], path


def metrics(run_dir):
    timing = ("time", "steps_per_second", "collect_seconds", "update_seconds")
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().split("\n")[:-1]]
    return [{name: value for name, value in line.items() if name not in timing} for line in lines]
