"""The study of sample efficiency: which runs it asks for, which settings it chooses. Nothing is trained."""

import json
from dataclasses import asdict

import pytest

from r2vpo.cli import main
from r2vpo.errors import ConfigError
from r2vpo.llm.config import resolve_config
from r2vpo.llm.experiments import compare, study
from r2vpo.llm.experiments.rows import PASSES, ROWS, candidates
from r2vpo.llm.experiments.study import (
    StudyCommand,
    choose,
    final_jobs,
    finalist_jobs,
    line_key,
    screening_jobs,
    sweep_jobs,
)
from r2vpo.runs import study as runs_study
from r2vpo.runs.study import finished_lines

TASK = study.TASKS["expressions"]


def line_of(job, areas):
    return {
        "label": job.label,
        "method": job.method,
        "seed": job.seed,
        "settings": job.settings,
        "model": job.model,
        "dataset": job.dataset,
        "total_rollouts": job.total_rollouts,
        "first_pass_at_1": areas[0],
        "passes_at_1": areas[1:],
    }


def test_all_rows_are_searched_equally_hard_with_settings_that_are_allowed():
    command = StudyCommand()
    jobs = screening_jobs(command, TASK)
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
    screened = screening_jobs(command, TASK)
    broken, *own = (job for job in screened if job.label == "grpo")
    lines = [line_of(job, [0.2, 0.1 * i]) for i, job in enumerate(own)]
    others = finalist_jobs(command, screened, lines)
    assert [(job.label, job.settings) for job in others] == [("grpo", line["settings"]) for line in lines[:-3:-1]]
    assert {job.seed for job in others} == {101}
    assert line_key(broken) not in map(line_key, others)
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


def fake_runs(trained, steps=4):
    """In the place of :func:`r2vpo.runs.study.run_jobs`: lines whose curves rise with the rate; one setting breaks."""

    def run_jobs(jobs, folder, workers, *, quiet=False, **more):
        failures = []
        for job in jobs:
            if job.key in finished_lines(jobs, folder):
                continue
            trained.append(job)
            if job.settings.get("utd") == 32:
                failures.append(f"{job.title}: broken")
                continue
            curve = [
                min(1.0, 0.3 + 200 * job.settings["learning_rate"] * i + 0.01 * (job.seed % 7)) for i in range(steps)
            ]
            line = {**asdict(job), "first_accuracy_greedy": 0.4, "accuracies": curve, "passes_at_1": curve}
            line |= {"first_pass_at_1": 0.3, "steps": [512 * (i + 1) for i in range(steps)], "wall_seconds": 3.6}
            line |= {"rewards": curve, "ratio_variances": curve, "entropies": curve, "samples_per_second": 1.0}
            line |= {"accuracy_greedy": curve[-1], "pass_at_1": curve[-1]}
            with (folder / "runs.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        return failures

    return run_jobs


def test_a_study_searches_compares_and_sweeps_and_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    trained = []
    for module in (study, runs_study):
        monkeypatch.setattr(module, "run_jobs", fake_runs(trained))
    monkeypatch.setattr(study, "make_models", lambda jobs: None)
    monkeypatch.setattr(compare, "make_models", lambda jobs: None)
    words = ["llm", "study", "--tasks", "arithmetic", "--rows", "grpo", "grpo-epochs2", "r2vpo-off", "--seeds", "2"]
    words += ["--settings", "6", "--search-seeds", "2", "--sweep-seeds", "1", "--out", str(tmp_path)]
    assert main([*words, "--list"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "arithmetic   search   0/18 runs"
    assert main([*words, "--stages", "search", "final"]) == 0
    said = capsys.readouterr()
    assert "broken" in said.err
    folder = tmp_path / "arithmetic"
    chosen = json.loads((folder / "search" / "chosen.json").read_text())
    whole = {(job.label, job.settings["learning_rate"]) for job in trained if job.settings.get("utd") != 32}
    fastest = {name: max(rate for label, rate in whole if label == name) for name in chosen}
    assert {name: settings["learning_rate"] for name, settings in chosen.items()} == fastest
    rows = json.loads((folder / "final" / "comparison.json").read_text())["comparison"]
    assert [row["method"] for row in rows] == ["grpo", "grpo-epochs2", "r2vpo-off"]
    assert rows[2]["sampled_efficiency"]["ratio"] == rows[2]["against"]["grpo-epochs2"]["ratio"] == 1.0
    settled = len(trained)
    assert main([*words, "--list"]) == 0
    assert "final    6/6 runs" in capsys.readouterr().out
    assert main([*words, "--stages", "final", "sweeps"]) == 1  # one of the sweep is broken
    swept = trained[settled:]
    assert {job.label.split(" ")[0] for job in swept} == {"r2vpo-off"}
    assert len(swept) == len({job.key for job in swept}) == 14
    said = capsys.readouterr()
    assert "1 of 14 runs failed" in said.err
    assert "not whole: arithmetic, sweeps" in said.err
    stable = json.loads((folder / "sweeps" / "stability.json").read_text())["r2vpo-off"]
    assert (stable["largest_utd"], stable["largest_buffer"]) == (16, 8)  # UTD 32 is the one that breaks
    assert len((folder / "sweeps" / "runs.jsonl").read_text().splitlines()) == 13
