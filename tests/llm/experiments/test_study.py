"""The study of sample efficiency: which runs it asks for, which settings it chooses, and one that is killed."""

import json
import signal

import pytest
from killing import send_when, start

from r2vpo.cli import main
from r2vpo.errors import ConfigError
from r2vpo.llm.config import resolve_config
from r2vpo.llm.experiments import study
from r2vpo.llm.experiments.rows import PASSES, ROWS, candidates
from r2vpo.llm.experiments.study import StudyCommand, choose, final_jobs, line_key, search_jobs, sweep_jobs

TASK = study.TASKS["expressions"]


def line_of(job, areas):
    return {
        "label": job.label,
        "method": job.method,
        "seed": job.seed,
        "settings": job.settings,
        "first_pass_at_1": areas[0],
        "passes_at_1": areas[1:],
    }


def test_all_rows_are_searched_equally_hard_with_settings_that_are_allowed():
    command = StudyCommand()
    jobs = search_jobs(command, TASK)
    assert {name: sum(job.label == name for job in jobs) for name in ROWS} == dict.fromkeys(ROWS, 12)
    assert len({job.key for job in jobs}) == len(jobs) == 12 * len(ROWS)
    for job in jobs:
        config = resolve_config({"model": job.model, "dataset": job.dataset, "method": job.method, **job.settings})
        assert (job.seed, job.keep, config.eval_samples_on_the_way) == (100, False, 1)
        expected = {"grpo": 1, "grpo-epochs2": 2, "grpo-epochs4": 4, "r2vpo-off-paper": 2}
        assert config.passes == expected.get(job.label, config.passes)
        if job.label.endswith(("-replay", "-off")):
            assert (config.algo, config.buffer_iterations) == ("off-policy", 4)


def test_rows_with_open_passes_share_one_draw_in_which_every_value_occurs_equally_often():
    drawn = {
        name: [(s["learning_rate"], s.get("utd", s.get("epochs"))) for s in candidates(row, 12)]
        for name, row in ROWS.items()
        if not row.passes_fixed
    }
    (pairs,) = {tuple(pairs) for pairs in drawn.values()}
    assert sorted(passes for _, passes in pairs) == sorted([*PASSES, *PASSES])


def test_the_best_third_goes_on_to_the_other_seeds_and_the_best_over_all_seeds_is_chosen():
    command = StudyCommand(rows=("grpo", "r2vpo-off"), settings=6, search_seeds=2)
    screened = search_jobs(command, TASK)
    lines = [line_of(job, [0.2, 0.1 * i]) for i, job in enumerate(job for job in screened if job.label == "grpo")]
    jobs = search_jobs(command, TASK, lines)
    others = [job for job in jobs if job.seed == 101]
    assert [(job.label, job.settings) for job in others] == [("grpo", line["settings"]) for line in lines[:-3:-1]]
    with pytest.raises(ConfigError, match="none of grpo on 2 seeds"):
        choose(lines, ("grpo",), 2)
    better_on_average = [line_of(others[0], [0.0, 0.0]), line_of(others[1], [0.2, 0.5])]
    chosen = choose([*lines, *better_on_average], ("grpo",), 2)["grpo"]
    assert chosen == {name: value for name, value in others[1].settings.items() if name != "eval_every"}
    assert line_key(others[1]) == line_key(better_on_average[1])


def test_final_and_sweep_runs_differ_in_what_they_are_to_differ_in():
    command = StudyCommand(seeds=2, sweep_seeds=1)
    chosen = {"grpo": {"epochs": 1}, "r2vpo-off": {"utd": 8, "lam": 1.5}}
    final = final_jobs(command, TASK, chosen)
    assert [(job.seed, job.label) for job in final] == [(s, name) for s in (0, 1) for name in chosen]
    assert all(job.keep and job.total_rollouts == TASK.rollouts for job in final)
    sweeps = {job.label: job for job in sweep_jobs(command, TASK, {"r2vpo-off": chosen["r2vpo-off"]})}
    assert sweeps["r2vpo-off utd 32"].settings | {"eval_every": 0} == {"utd": 32, "lam": 1.5, "eval_every": 0}
    assert sweeps["r2vpo-off buffer 8"].settings["buffer_iterations"] == 8
    for job in sweeps.values():
        resolve_config({"model": job.model, "dataset": job.dataset, "method": job.method, **job.settings})
    assert resolve_config({"method": "onesided", **sweeps["r2vpo-off two-sided"].settings}).objective == "r2vpo"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tasks", "spell_backward"], "it memorises words and ranked no methods"),
        (["--tasks", "sums"], "arithmetic, chain_sum, expressions"),
        (["--rows", "ppo"], "r2vpo-off-paper"),
        (["--seeds", "0"], "seeds=0"),
        (["--scale", "0"], "scale=0.0"),
        (["--settings", "13"], "at most 12"),
        (["--stages", "final"], "none of grpo on 3 seeds"),
    ],
)
def test_what_cannot_be_run_is_refused_before_any_work(words, said, tmp_path, capsys):
    assert main(["llm", "study", *words, "--out", str(tmp_path / "out")]) != 0
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("runs.jsonl"))


@pytest.mark.slow
def test_a_killed_study_goes_on_and_trains_nothing_twice(tmp_path, monkeypatch, capsys):
    words = ["llm", "study", "--tasks", "arithmetic", "--rows", "grpo", "r2vpo-off", "--sweep-rows", "r2vpo-off"]
    words += ["--stages", "search", "final", "--settings", "2", "--search-seeds", "2", "--seeds", "2", "--workers", "1"]
    words += ["--scale", "0.04", "--eval-every", "1", "--out", str(tmp_path)]
    search, final = (tmp_path / "arithmetic" / stage / "runs.jsonl" for stage in ("search", "final"))
    process = start("-m", "r2vpo", *words)
    send_when(process, signal.SIGKILL, lambda: search.exists() and len(search.read_text().splitlines()) == 2)
    before = search.read_text().splitlines()[:2]
    process = start("-m", "r2vpo", *words)
    said = process.communicate(timeout=280)[0]
    assert process.returncode == 0, said
    lines = search.read_text().splitlines()
    assert lines[:2] == before
    assert sorted((line["label"], line["seed"]) for line in map(json.loads, lines)) == sorted(
        [(name, 100) for name in ("grpo", "r2vpo-off") for _ in range(2)] + [("grpo", 101), ("r2vpo-off", 101)]
    )
    assert len(final.read_text().splitlines()) == 4
    rows = json.loads((tmp_path / "arithmetic" / "final" / "comparison.json").read_text())["comparison"]
    assert rows[0]["sampled_efficiency"]["ratio"] == 1.0
    assert main([*words, "--list"]) == 0
    assert "search   6/6 runs" in capsys.readouterr().out
