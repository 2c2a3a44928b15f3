"""Tuning: spaces that people read, the same budget for each method, searches that go on, files that train takes."""

import json

import pytest

from r2vpo.cli import main, read_settings
from r2vpo.errors import ConfigError

optuna = pytest.importorskip("optuna")

from r2vpo.control.experiments.tuning.options import TuneCommand  # noqa: E402
from r2vpo.control.experiments.tuning.search import _study, search  # noqa: E402
from r2vpo.control.experiments.tuning.space import DEFAULT, read_space  # noqa: E402
from r2vpo.control.presets import VARIANTS, resolve_config  # noqa: E402

SPACE = """\
learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}
epochs: {low: 1, high: 3}
hidden_sizes: [[8], [8, 8]]
minibatch_size: [16, 32]
"""
FIXED = ["num_envs=2", "rollout_steps=16"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rat: [1.0]", "learning_rat.*did you mean learning_rate"),
        ("learning_rate: [0.0]", "learning_rate=0.0"),
        ("gamma: {low: 0.9, high: 1.5}", "gamma=1.5"),
        ("gamma: {low: 0.9}", "low and high"),
        ("gamma: {low: 0.9, high: 0.9}", "low below high"),
        ("gamma: {low: 0.0, high: 0.9, log: true}", "above 0"),
        ("gamma: {low: 0.5, high: 0.9, logarithmic: true}", "low and high"),
        ("epochs: 3", "a list of choices"),
        ("seed: [1, 2]", "the same in every trial"),
        ("{}", "a mapping"),
    ],
)
def test_a_space_that_cannot_work_is_refused(tmp_path, text, said):
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_space(tmp_path / "space.yaml")


def test_whatever_the_default_space_chooses_can_be_trained():
    space, text = read_space(None)
    assert text == DEFAULT
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    for _ in range(30):
        trial = study.ask()
        config = resolve_config({**VARIANTS["r2vpo-off"], **{d.name: d.suggest(trial) for d in space}})
        assert isinstance(config.hidden_sizes, tuple)


def test_methods_get_the_same_and_a_search_goes_on(tmp_path, capsys):
    out = tmp_path / "tune"
    (tmp_path / "space.yaml").write_text(SPACE)
    words = ["control", "tune", "--env", "Pendulum-v1", "--algos", "r2vpo-off", "ppo", "--total-steps", "64"]
    words += ["--space", str(tmp_path / "space.yaml"), "--set", *FIXED, "--episodes", "1", "--quiet", "--out", str(out)]
    assert main([*words, "--trials", "1"]) == 0
    first = json.loads((out / "tuning.json").read_text())["methods"]
    assert main([*words, "--trials", "3", "--json", str(tmp_path / "all.json")]) == 0
    results = json.loads((tmp_path / "all.json").read_text())
    for algo, found in results["methods"].items():
        assert (found["trials"], found["steps"], found["pruned"]) == (3, 3 * 64, 0)
        assert found["scores"][:1] == first[algo]["scores"]
        assert len(set(found["scores"])) == 3  # what goes on does not choose the same again
        assert found["best"] == max(found["scores"])
        best = read_settings(out / f"best-{algo}.yaml")
        assert best["objective"] == VARIANTS[algo]["objective"]
        assert best.items() >= {"num_envs": 2, "env": "Pendulum-v1", **found["settings"]}.items()
    pictures = {path.name for path in out.glob("*.png")}
    assert pictures == {
        f"{kind}-{a}.png" for kind in ("history", "settings", "importance") for a in ("ppo", "r2vpo-off")
    }
    assert (out / "space.yaml").read_text() == SPACE
    config = resolve_config(read_settings(out / "best-ppo.yaml"))  # as `r2vpo control train --config` does
    wanted = {name: tuple(v) if isinstance(v, list) else v for name, v in results["methods"]["ppo"]["settings"].items()}
    assert {name: getattr(config, name) for name in wanted} == wanted
    assert "best of 3 trials, 192 steps" in capsys.readouterr().out


def test_what_was_under_way_when_a_search_was_killed_is_tried_again(tmp_path):
    command = TuneCommand(env="Pendulum-v1", out=tmp_path)
    killed = _study(command, "ppo", str(tmp_path / "journal.log")).ask()
    chosen = killed.suggest_float("learning_rate", 1e-4, 1e-2)
    study = _study(command, "ppo", str(tmp_path / "journal.log"))
    assert study.get_trials()[killed.number].state == optuna.trial.TrialState.FAIL
    assert study.ask().suggest_float("learning_rate", 1e-4, 1e-2) == chosen


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"algos": ("sb3-ppo",)}, "algos='sb3-ppo'"),
        ({"algos": ("ppo", "ppo")}, "none of them twice"),
        ({"trials": 0}, "trials=0"),
        ({"set": ("gamma=0.9",)}, "in the space or in --set"),
        ({"env": "Nowhere-v0"}, "env='Nowhere-v0'"),
    ],
)
def test_a_command_that_cannot_work_is_refused_before_any_trial(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        search(TuneCommand(**{"env": "Pendulum-v1", "out": tmp_path / "out", **changes}))
    assert not (tmp_path / "out").exists()
