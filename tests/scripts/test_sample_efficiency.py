"""The study of sample efficiency: which runs it asks for, and which settings it chooses. Nothing is trained."""

import importlib.util
import sys
from pathlib import Path

import pytest

from r2vpo.llm.config import resolve_config

SCRIPT = Path(__file__).parents[2] / "scripts" / "sample_efficiency.py"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="scripts are not part of the package")


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("sample_efficiency", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def line(method, rate, accuracies):
    return {"method": method, "settings": {"learning_rate": rate}, "accuracies": accuracies}


def test_all_methods_are_searched_equally_hard_with_settings_that_are_allowed(study):
    for name, task in study.TASKS.items():
        arguments = study.Arguments("search", task=name)
        jobs = study.search_jobs(arguments, task, task.methods)
        counts = {method: sum(job.method == method for job in jobs) for method in task.methods}
        assert set(counts.values()) == {9}
        assert len({job.name for job in jobs}) == len({job.key for job in jobs}) == len(jobs)
        for job in jobs:
            resolve_config({"model": job.model, "dataset": job.dataset, "method": job.method, **job.settings})
            assert (job.model, job.keep) == (task.name, False)


def test_learning_rates_variants_and_evaluations_can_be_fewer(study):
    task = study.TASKS["chain_sum"]
    arguments = study.Arguments("search", task="chain_sum", learning_rates=(1e-4,), variants=2, eval_every=3)
    jobs = study.search_jobs(arguments, task, ("grpo",))
    assert [job.name for job in jobs] == ["grpo lr=0.0001", "grpo lr=0.0001 eps=0.1"]
    assert all(job.settings["eval_every"] == 3 for job in jobs)


def test_the_settings_with_the_largest_area_are_chosen(study):
    lines = [line("grpo", 1e-4, [0.5, 0.9]), line("grpo", 2e-4, [0.7, 0.8]), line("topr", 4e-4, [1.0, 1.0])]
    assert study.best_settings(lines, "grpo") == {"learning_rate": 2e-4}
    with pytest.raises(SystemExit, match="gppo"):
        study.best_settings(lines, "gppo")


def test_the_final_stage_ends_one_seed_after_the_other_and_keeps_curves(study):
    task = study.TASKS["spell_backward"]
    arguments = study.Arguments("final", task="spell_backward", seeds=2)
    jobs = study.final_jobs(arguments, task, {"grpo": {"eps": 0.1}, "r2vpo-on": {"lam": 0.5}})
    order = [(job.seed, job.method) for job in jobs]
    assert order == [(0, "grpo"), (0, "r2vpo-on"), (1, "grpo"), (1, "r2vpo-on")]
    assert all(job.keep and job.settings["eval_every"] == study.EVAL_EVERY for job in jobs)
