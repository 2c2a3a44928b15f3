"""Which settings fill in what is not given."""

import json

import pytest

from r2vpo.cli import main
from r2vpo.control.config import ControlConfig
from r2vpo.control.presets import FAST, config_dict, resolve_config, saved_config
from r2vpo.errors import ConfigError


def chosen(**settings):
    return resolve_config({"env": "Hopper-v5", **settings})


def test_both_algorithms_have_the_defaults_and_the_fast_preset_its_own():
    assert chosen() == ControlConfig(env="Hopper-v5")
    assert chosen(algo="on-policy") == ControlConfig(env="Hopper-v5", algo="on-policy")
    config = chosen(preset="fast")
    assert {name: getattr(config, name) for name in FAST} == FAST


def test_fast_is_off_policy():
    assert chosen(preset="fast").algo == "off-policy"
    with pytest.raises(ConfigError, match=r"preset='fast'.*'default' with algo='on-policy'"):
        chosen(preset="fast", algo="on-policy")


def test_what_is_given_wins():
    assert chosen(preset="fast", num_envs=16, learning_rate=5e-4).num_envs == 16
    assert chosen(learning_rate=5e-4).learning_rate == 5e-4
    assert chosen(delta=0.5).delta == 0.5


def test_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match=r"preset='quick'.*default, fast"):
        ControlConfig(preset="quick")


def test_command_line_takes_the_preset(tmp_path):
    words = ["--env", "Pendulum-v1", "--preset", "fast", "--total-steps", "1", "--eval-episodes", "0", "--quiet"]
    assert main(["control", "train", *words, "--epochs", "1", "--run-dir", str(tmp_path / "run")]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert {name: config[name] for name in FAST} == {**FAST, **({"epochs": 1} if "epochs" in FAST else {})}


def test_saved_settings_keep_what_had_no_name_then():
    saved = config_dict(ControlConfig())
    assert saved_config({**saved, "lr_end": 0.0}) == ControlConfig()
    former = {name: value for name, value in saved.items() if name not in ("anchor", "estimates")}
    config = saved_config(former)
    assert (config.anchor, config.estimates) == ("behaviour", 1)
