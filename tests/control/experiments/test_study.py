"""A study: tasks x algorithms x seeds as a list on disk, of which nothing is lost, doubled or confused."""

import json
import shlex

import numpy as np
import pytest
from killing import without_times

from r2vpo.cli import main
from r2vpo.control.experiments import videos as study_videos
from r2vpo.control.experiments.commands import StudyCommand, StudyResumeCommand, parse_settings, setting_words
from r2vpo.control.experiments.figures import plot_comparison
from r2vpo.control.experiments.job import Job
from r2vpo.control.experiments.study import JobList, print_states, study, study_jobs
from r2vpo.control.experiments.summary import summarise_lines
from r2vpo.control.experiments.worker import metric_traces
from r2vpo.envs.tasks import TASKS
from r2vpo.errors import ConfigError, R2VPOError, RunDirectoryError
from r2vpo.runs.directory import read_metrics
from r2vpo.runs.study import read_results

SPARSE = "r2vpo/SparseReacher-v0"
SMALL = ("num_envs=2", "rollout_steps=64", "minibatch_size=32", "epochs=1", "hidden_sizes=8,8")


def command(out, **changes):
    given = {"env": ("Pendulum-v1",), "algos": ("r2vpo-on",), "seeds": 1, "total_steps": 2_560, "episodes": 2}
    return StudyCommand(**{**given, "set": SMALL, "out": out, "quiet": True, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study of two tasks and two seeds, and what it returned."""
    out = tmp_path_factory.mktemp("study") / "out"
    settings = (*SMALL, "eval_every=1280")
    return out, study(command(out, env=("Pendulum-v1", SPARSE), seeds=2, first_seed=3, set=settings))


@pytest.mark.slow
def test_cells_are_listed_and_run_seeds_outermost(finished):
    out, document = finished
    cells = [("Pendulum-v1", 3), (SPARSE, 3), ("Pendulum-v1", 4), (SPARSE, 4)]
    listed = JobList.open(out)
    assert [(job.env, job.seed) for job in listed.jobs] == cells
    lines = read_results(out / "runs.jsonl")
    assert sorted((line["env"], line["seed"]) for line in lines) == sorted(cells)
    assert {line["seed"] for line in lines[:2]} == {3}
    assert [row["seeds"] for row in document["comparison"]] == [[3, 4], [3, 4]]
    assert json.loads((out / "comparison.json").read_text()) == document
    assert (out / "comparison.png").stat().st_size > 10_000
    assert "--first-seed 3" in listed.commands[0]["command"]
    assert set(listed.commands[0]) == {"command", "versions", "machine", "commit", "time"}


@pytest.mark.slow
def test_lines_hold_settings_traces_and_success(finished):
    out, _ = finished
    for line in read_results(out / "runs.jsonl"):
        assert line["settings"] == parse_settings((*SMALL, "eval_every=1280"))
        assert line["evaluation_steps"] == [1_280, 2_560]
        assert len(line["evaluation_returns"]) == len(line["evaluation_returns_stochastic"]) == 2
        assert line["config"]["epochs"] == 1
        assert line["config"]["hidden_sizes"] == [8, 8]
        metrics = read_metrics(out / line["run_dir"])
        assert len(line["steps"]) == 50
        for name in ("ratio_variance", "lam", "entropy"):
            assert len(line[name]) == 50
            # 20 rollouts of 128 steps in windows of 51.2: each is alone in its window.
            known = [value for value in line[name] if value is not None]
            assert known == [row[name] for row in metrics]
        assert line["entropy"][2] == metrics[0]["entropy"]
        assert ("success_rate" in line) == (line["env"] == SPARSE)
        assert line.get("success_rate", 0.0) in (0.0, 0.5, 1.0)


@pytest.mark.slow
def test_finished_study_runs_nothing_again_and_lists_everything_as_done(finished, monkeypatch, capsys):
    out, document = finished
    before = (out / "runs.jsonl").read_bytes()
    monkeypatch.setattr("r2vpo.runs.workers.Workers._start", lambda *_: pytest.fail("nothing was to be run"))
    assert study(StudyResumeCommand(out, quiet=True)) == document
    assert (out / "runs.jsonl").read_bytes() == before
    capsys.readouterr()
    assert study(StudyResumeCommand(out, list=True)) is None
    said = capsys.readouterr().out
    assert said.count("done  ") == 4
    assert "4 done, 0 half done, 0 waiting; nothing left to do" in said


@pytest.mark.slow
def test_changed_command_only_adds_cells(finished, capsys):
    out, _ = finished
    study(command(out, env=("Pendulum-v1",), algos=("ppo",), seeds=1, first_seed=3, list=True))
    said = capsys.readouterr().out
    assert "4 done, 0 half done, 1 waiting; time left 0:" in said
    assert said.splitlines()[2].split()[0] == "waiting"  # with the other cells of seed 3
    assert len(JobList.open(out).jobs) == 4  # only listing writes nothing


@pytest.mark.slow
def test_cell_reruns_from_its_command(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = next(line for line in read_results(finished[0] / "runs.jsonl") if line["env"] == "Pendulum-v1")
    words = shlex.split(line["command"])
    assert main([*words[1:], "--quiet"]) == 0
    assert without_times(read_results(tmp_path / words[-1] / "runs.jsonl")) == without_times([line])


def test_states_and_time_left_by_hand(tmp_path, capsys):
    jobs = [Job("ppo", "A", seed, 100) for seed in range(4)]
    print_states(jobs, tmp_path, 2)
    assert "0 done, 0 half done, 4 waiting; time left unknown" in capsys.readouterr().out
    (tmp_path / "runs.jsonl").write_text(json.dumps(line_of("ppo", "A", 0, 50.0)) + "\n")
    half = tmp_path / "runs" / jobs[1].folder
    half.mkdir(parents=True)
    (half / "metrics.jsonl").write_text('{"step": 60}\n')
    print_states(jobs, tmp_path, 2)
    said = capsys.readouterr().out.splitlines()
    assert [text.split("  ")[0] for text in said[:4]] == ["done", "half done", "waiting", "waiting"]
    # 40 + 100 + 100 steps are left, half a second each, two at a time.
    assert said[-1] == "1 done, 1 half done, 2 waiting; time left 1:00 with 2 at a time"


@pytest.mark.slow
def test_failing_cell_is_reported_and_tried_again(tmp_path, capsys):
    wanted = command(tmp_path, seeds=2, workers=1, total_steps=512)
    broken = tmp_path / "runs" / study_jobs(wanted)[0].folder / "config.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    with pytest.raises(R2VPOError, match=r"(?s)1 of 2 runs failed.*seed 0.*is damaged"):
        study(wanted)
    assert [line["seed"] for line in read_results(tmp_path / "runs.jsonl")] == [1]
    broken.unlink()
    study(StudyResumeCommand(tmp_path, quiet=True))
    assert [line["seed"] for line in read_results(tmp_path / "runs.jsonl")] == [1, 0]


def test_default_study_is_the_ten_tasks():
    assert StudyCommand().env == tuple(task.id for task in TASKS)
    jobs = study_jobs(StudyCommand(algos=("r2vpo-on", "ppo")))
    assert len(jobs) == 2 * 10 * 5
    assert [job.seed for job in jobs] == sorted(job.seed for job in jobs)
    assert {job.total_steps for job in jobs} == {500_000}


def test_settings_make_another_identity_and_old_lines_keep_theirs():
    old = {"algo": "ppo", "env": "Hopper-v5", "seed": 0, "total_steps": 300_000, "eval_episodes": 20}
    plain = Job("ppo", "Hopper-v5", 0, 300_000)
    assert Job.of_line(old).key == plain.key
    assert Job.of_line(old).folder == "ppo-Hopper-v5-seed0-300000"
    changed = [Job("ppo", "Hopper-v5", 0, 300_000, settings=parse_settings([s])) for s in ("eps=0.1", "eps=0.3")]
    assert len({job.key for job in [plain, *changed]}) == 3
    assert len({job.folder for job in [plain, *changed]}) == 3
    both = (parse_settings(words) for words in (["eps=0.1", "epochs=4"], ["epochs=4", "eps=0.10"]))
    assert len({Job("ppo", "Hopper-v5", 0, 1, settings=settings).key for settings in both}) == 1
    assert Job.of_line(json.loads(json.dumps(old | {"settings": {"eps": 0.1}}))).key == changed[0].key


def test_settings_are_for_our_own_algorithms_and_survive_the_command_line():
    pytest.importorskip("stable_baselines3", reason="needs stable-baselines3")
    jobs = study_jobs(command("out", algos=("ppo", "sb3-ppo")))
    assert [job.settings for job in jobs] == [parse_settings(SMALL), {}]
    settings = parse_settings(
        ["lam=2", "delta=1e-05", "overlap=true", "eta=none", "hidden_sizes=32,16", "engine=native"]
    )
    expected = {"lam": 2.0, "delta": 1e-05, "overlap": True, "eta": None, "hidden_sizes": [32, 16], "engine": "native"}
    assert settings == expected
    assert parse_settings(setting_words(settings)) == settings
    assert isinstance(settings["lam"], float)


def test_list_keeps_what_it_has_and_orders_by_seed():
    known = JobList((), 2, "none").with_jobs([Job("ppo", "A", 0, 9), Job("ppo", "A", 1, 9)])
    more = known.with_jobs([Job("ppo", "A", 0, 9, eval_episodes=5), Job("spo", "A", 0, 9), Job("spo", "A", 1, 9)])
    assert [(job.algo, job.seed, job.eval_episodes) for job in more.jobs] == [
        ("ppo", 0, 20),
        ("spo", 0, 20),
        ("ppo", 1, 20),
        ("spo", 1, 20),
    ]


def line_of(algo, env, seed, seconds, **more):
    identity = {"algo": algo, "env": env, "seed": seed, "total_steps": 100}
    return identity | {"wall_seconds": seconds, "eval_return_mean": float(seed)} | more


def test_traces_by_hand():
    metrics = [{"step": s, "lam": v} for s, v in ((25, 1.0), (26, 2.0), (50, 4.0), (90, float("nan")), (104, 8.0))]
    traces = metric_traces(metrics, ("lam", "entropy"), total_steps=100, points=4)
    assert traces == {"lam": [1.0, 3.0, None, 8.0], "entropy": [None] * 4}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"env": ("No-v0",)}, "No-v0"),
        ({"env": ()}, r"env=\(\)"),
        ({"algos": ("dqn",)}, "algos='dqn' is not allowed.*r2vpo-on"),
        ({"set": ("delte=1",)}, "delte='1' is not allowed.*delta"),
        ({"set": ("delta=-1",)}, r"delta=-1.0 is not allowed.*above 0"),
        ({"set": ("epochs=1.5",)}, "epochs=1.5 is not allowed.*whole number"),
        ({"set": ("normalize_rewards=maybe",)}, "normalize_rewards='maybe' is not allowed.*True or False"),
        ({"set": ("hidden_sizes=64,x",)}, "hidden_sizes"),
        ({"set": ("objective=spo",)}, "objective='spo'.*--algos"),
        ({"set": ("delta",)}, "set='delta'.*NAME=VALUE"),
        ({"set": ("delta=1", "delta=2")}, "delta='2'.*once"),
        ({"algos": ("sb3-ppo",)}, "set=.*left out"),
        ({"seeds": 0}, "seeds=0.*at least 1"),
        ({"first_seed": -1}, "first_seed=-1.*at least 0"),
        ({"workers": 0}, "workers=0"),
    ],
)
def test_bad_studies_start_nothing(tmp_path, change, said):
    with pytest.raises(ConfigError, match=said):
        study(command(tmp_path / "out", **change))
    assert not (tmp_path / "out").exists()


def test_nothing_to_resume_is_said(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"holds no study.*study\.json"):
        study(StudyResumeCommand(tmp_path))
    (tmp_path / "study.json").write_text('{"jobs": [')
    with pytest.raises(RunDirectoryError, match="damaged"):
        study(StudyResumeCommand(tmp_path))


def test_best_and_worst_seeds_are_filmed_and_a_blind_machine_says_so_once(tmp_path, monkeypatch, capsys):
    lines = [line_of(algo, env, seed, 1.0) for algo in ("ppo", "sb3-ppo") for env in "AB" for seed in range(3)]
    jobs = study_videos.best_and_worst(lines)
    assert [(job.algo, job.env, job.seed) for job in jobs] == [("ppo", e, s) for e in "AB" for s in (2, 0)]

    def blind(job, path):
        raise RuntimeError("no display")

    monkeypatch.setattr(study_videos, "_film", blind)
    assert study_videos.film(jobs, tmp_path) == []
    assert capsys.readouterr().err.count("no display") == 1


def test_same_algorithm_with_other_settings_is_another_row(tmp_path):
    curve = {"steps": [50, 100], "returns": [1.0, 2.0], "eval_return_mean_stochastic": 0.0, "steps_per_second": 1.0}
    lines = [line_of("ppo", "A", s, 1.0, **curve, settings=d) for s in (0, 1) for d in ({}, {"eps": 0.1})]
    lines += [line_of("ppo", "B", 0, 1.0, **curve | {"returns": [None, None]})]
    rows = summarise_lines(lines)
    assert [(row["env"], row["label"], row["seeds"]) for row in rows] == [
        ("A", "ppo", [0, 1]),
        ("A", "ppo eps=0.1", [0, 1]),
        ("B", "ppo", [0]),
    ]
    assert np.isnan(rows[2]["while_training"]["mean"])
    assert plot_comparison(lines, tmp_path / "picture.png").stat().st_size > 5_000
