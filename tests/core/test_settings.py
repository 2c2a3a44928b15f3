"""Presets below a file below flags; --help shows what most people need, --help-advanced everything."""

import json
import re
from dataclasses import fields

import pytest

from r2vpo.cli import field_docs, main, parse_training, read_settings
from r2vpo.control.cli import TrainCommand as ControlTrain
from r2vpo.control.config import ControlConfig
from r2vpo.control.presets import FAST, resolve_config
from r2vpo.errors import ConfigError
from r2vpo.llm.cli import TrainCommand as LLMTrain
from r2vpo.llm.config import LLMConfig

PRESETS = ("env", "algo", "objective", "preset")


def control(*words):
    return parse_training(ControlTrain, ControlConfig, resolve_config, PRESETS, words, "r2vpo control train")


@pytest.fixture
def settings_file(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("algo: on-policy\nlearning_rate: 1e-3\nhidden_sizes: [32, 32]\nobjective_kwargs: {}\nnum_envs: 3\n")
    return path


def test_flags_win_over_the_file_and_the_file_over_the_preset(settings_file):
    _, settings = control("--config", str(settings_file), "--num-envs", "5", "--gamma", "0.9")
    given = {"algo": "on-policy", "learning_rate": 1e-3, "num_envs": 5, "gamma": 0.9, "hidden_sizes": (32, 32)}
    expected = resolve_config(given)
    assert ControlConfig(**settings) == expected


def test_a_flag_that_chooses_the_preset_fills_in_what_the_file_leaves_out(settings_file):
    settings_file.write_text("num_envs: 64\n")
    _, settings = control("--config", str(settings_file), "--preset", "fast")
    assert {name: settings[name] for name in FAST} == {**FAST, "num_envs": 64}


def test_a_preset_other_than_the_files_is_refused(settings_file):
    settings_file.write_text("preset: default\n")
    with pytest.raises(ConfigError, match=r"preset='fast' .* holds the settings of preset='default'"):
        control("--config", str(settings_file), "--preset", "fast")


def test_the_config_of_a_run_repeats_the_run(tmp_path):
    words = ["--env", "Pendulum-v1", "--total-steps", "512", "--num-envs", "4", "--eval-episodes", "0", "--quiet"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["control", "train", *words, "--seed", "5", "--run-dir", str(first)]) == 0
    assert main(["control", "train", "--config", str(first / "config.json"), "--quiet", "--run-dir", str(second)]) == 0
    assert json.loads((first / "config.json").read_text()) == json.loads((second / "config.json").read_text())
    returns = [[json.loads(line)["lam"] for line in (run / "metrics.jsonl").open()] for run in (first, second)]
    assert returns[0] == returns[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "a YAML or JSON file"),
        ("- 1", "a mapping"),
        ("learning_rates: 1", "learning_rates=1"),
        ("learning_rate: fast", "learning_rate='fast'"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, text, said, capsys):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    assert main(["control", "train", "--config", str(path)]) == 1
    assert said in capsys.readouterr().err


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match=r"config='nowhere.yaml' .* can be read"):
        control("--config", "nowhere.yaml")


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "0.001", "+.1e-2"])
def test_numbers_in_yaml_are_numbers(tmp_path, text):
    (tmp_path / "file.yaml").write_text(f"x: {text}")
    assert read_settings(tmp_path / "file.yaml") == {"x": 0.001}


@pytest.mark.parametrize(
    ("group", "command", "config"), [("control", ControlTrain, ControlConfig), ("llm", LLMTrain, LLMConfig)]
)
def test_help_shows_at_most_twenty_settings_and_advanced_help_all(capsys, group, command, config):
    def shown(word):
        with pytest.raises(SystemExit):
            main([group, "train", word])
        text = capsys.readouterr().out
        names = [f.name for f in (*fields(command), *fields(config))]
        return [name for name in names if re.search(rf"--{name.replace('_', '-')}[ ,\n]", text)]

    assert len(shown("--help")) <= 20
    assert {f.name for f in fields(config)} <= set(shown("--help-advanced"))


def test_a_hidden_setting_is_still_a_flag():
    assert control("--gae-lambda", "0.5")[1]["gae_lambda"] == 0.5
    assert control("--objective", "ppo_clip", "--objective-kwargs", "eps", "0.3")[1]["objective_kwargs"] == {"eps": 0.3}


@pytest.mark.parametrize("kind", [ControlConfig, LLMConfig, ControlTrain, LLMTrain])
def test_every_setting_says_what_it_is(kind):
    assert all(field_docs(kind)[f.name] for f in fields(kind))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("num_generations", "group_size"),
        ("beta", "no KL term"),
        ("per_device_train_batch_size", "minibatch_size"),
        ("max_completion_length", "max_completion_tokens"),
    ],
)
def test_names_of_trl_are_answered_with_the_name_here(name, said, capsys):
    assert main(["llm", "train", f"--{name.replace('_', '-')}", "8"]) == 1
    assert re.search(f"{name}='8' .* must be left out: .*{said}", capsys.readouterr().err)


@pytest.mark.parametrize("kind", [ControlConfig, LLMConfig])
def test_names_of_others_are_no_settings_and_their_answers_name_some(kind):
    known = {f.name for f in fields(kind)}
    assert not known & set(kind.ELSEWHERE)
    called = [re.search(r"it is called (\w+) here", answer) for answer in kind.ELSEWHERE.values()]
    assert {match[1] for match in called if match} <= known
