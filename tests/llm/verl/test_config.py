"""What verl finds of the adapter, and the settings that are filled in or refused."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("verl")
pytest.importorskip("transfer_queue")

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_base import get_trainer_cls
from verl.utils.config import omega_conf_to_dataclass, validate_config
from verl_local import SETTINGS, make_sampler

import r2vpo.llm.verl as adapter
from r2vpo.errors import ConfigError, HostVersionError
from r2vpo.llm.verl.check import SAMPLER, probe
from r2vpo.llm.verl.config import BYPASS_MODE, POLICY_LOSS
from r2vpo.llm.verl.main import FILLED_IN, filled_in
from r2vpo.llm.verl.trainer import R2VPOTrainer

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def test_verl_finds_loss_trainer_and_sampler_by_name():
    assert get_policy_loss_fn("r2vpo") is adapter.r2vpo_policy_loss
    assert get_trainer_cls("r2vpo") is R2VPOTrainer
    module, name = SAMPLER
    assert issubclass(getattr(importlib.import_module(module.removeprefix("pkg://")), name), ReplayBuffer)


@pytest.mark.slow
def test_the_check_tells_a_plugin_that_verl_finds_from_one_that_it_does_not(tmp_path, monkeypatch):
    """The entry point is one that pip would write: verl alone, in a fresh process, discovers it."""
    monkeypatch.delenv("VERL_USE_EXTERNAL_MODULES", raising=False)
    metadata = tmp_path / "plugin-0.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 0.0\n")
    (metadata / "entry_points.txt").write_text("[verl.plugins]\nr2vpo = r2vpo.llm.verl\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = probe()
    assert [name for name, value in found.items() if not value or name == "error"] == []

    (metadata / "entry_points.txt").write_text("[verl.plugins]\nr2vpo = r2vpo.llm.verl:nothing\n")
    monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", "none")
    command = [sys.executable, "-m", "r2vpo.llm.verl.check"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "policy loss r2vpo          missing" in run.stdout
    assert "has no attribute 'nothing'" in run.stderr  # verl itself would say this at the level DEBUG
    assert "VERL_USE_EXTERNAL_MODULES=r2vpo.llm.verl" in run.stderr


def test_another_version_of_verl_is_refused_with_the_range(monkeypatch):
    monkeypatch.setattr("r2vpo.errors.version", lambda name: "0.8.0")
    with pytest.raises(HostVersionError, match=r"verl 0\.8\.0 is not supported; .*verl>=0\.9,<0\.10"):
        importlib.reload(adapter)


def test_the_core_alone_does_not_import_verl():
    code = "import r2vpo, r2vpo.llm, sys; print({'verl', 'ray'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_what_the_entry_point_fills_in_is_algorithm_2_of_the_paper(config):
    settings = adapter.check_config(config)
    assert (settings.lam, settings.make_dual().rule) == (0.04, "fixed")
    assert config.trainer.v1.sampler.sampler_kwargs == {"buffer_iterations": 4, "utd": 2, "seed": 0}


@pytest.mark.parametrize("script", ["verl_one_node.sh", "verl_ray_cluster.sh"])
def test_the_settings_of_the_examples_exist_and_fit(script, tmp_path, monkeypatch):
    """The scripts with `echo` in the place of Python; verl's own validation reads what they would start."""
    for name in ("dapo-math-17k", "aime-2024"):
        (tmp_path / f"{name}.parquet").touch()
    monkeypatch.setenv("PYTHON", "echo")
    monkeypatch.setenv("DATA", str(tmp_path))
    command = [EXAMPLES / script, *(["train"] if "ray" in script else [])]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    module, overrides = run.stdout.split()[1], run.stdout.split()[2:]
    assert module == "r2vpo.llm.verl.main"
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=[*FILLED_IN, *overrides])
    assert adapter.check_config(config).lam == 0.04
    validate_config(config, use_reference_policy=False, use_critic=False)
    assert config.data.max_prompt_length + config.data.max_response_length == 16384
    assert config.trainer.nnodes == (2 if "ray" in script else 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("algorithm.rollout_correction.bypass_mode", False),
        ("actor_rollout_ref.rollout.calculate_log_probs", False),
        ("actor_rollout_ref.rollout.logprobs_mode", "raw_logprobs"),
        ("actor_rollout_ref.rollout.top_p", 0.95),
        ("actor_rollout_ref.rollout.top_k", 50),
        ("algorithm.rollout_correction.rollout_is", "token"),
        ("algorithm.filter_groups.enable", True),
        ("trainer.v1.sampler.sync_refill_failed_groups", True),
        ("trainer.use_v1", False),
        ("trainer.v1.trainer_mode", "separate_async"),
        ("distillation.enabled", True),
        (f"{POLICY_LOSS}.loss_mode", "vanilla"),
        (f"{POLICY_LOSS}._target_", "verl.workers.config.PolicyLossConfig"),
    ],
)
def test_a_setting_that_would_silently_be_wrong_is_refused(config, name, value):
    OmegaConf.update(config, name, value)
    # What this mistake would otherwise reach is not what this test is about.
    if name.endswith("_target_"):
        config.actor_rollout_ref.actor.policy_loss = {"_target_": value, "loss_mode": "r2vpo"}
    with pytest.raises(ConfigError) as caught:
        R2VPOTrainer(config)
    assert caught.value.field == name


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"lam": -1.0}, "lam"),
        ({"lam": "much"}, "lam"),
        ({"delta": 0.0}, "delta"),
        ({"eta": -0.1}, "eta"),
        ({"dual": "newton"}, "dual"),
        ({"anchor": "nearest"}, "anchor"),
        ({"anchor": "proximal"}, BYPASS_MODE),
        ({"objective": "ppo"}, "objective"),
        ({"objective": "sapo", "objective_kwargs": {"tau": 1.0}}, "tau"),
        ({"objective": "m2po"}, "objective"),  # ranks the tokens of a minibatch, of which verl shows it parts
    ],
)
def test_an_objective_or_dual_setting_out_of_range_is_refused(config, given, field):
    config.actor_rollout_ref.actor.policy_loss.update(given)
    with pytest.raises(ConfigError) as caught:
        adapter.check_config(config)
    assert caught.value.field == field


def test_the_entry_point_has_verl_score_anew_for_the_proximal_anchor_alone():
    given = [*SETTINGS, f"{POLICY_LOSS}.anchor=proximal"]
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=[*filled_in(given), *given])
    assert adapter.check_config(config).anchor == "proximal"
    assert OmegaConf.select(config, BYPASS_MODE) is False
    assert filled_in(SETTINGS) == list(FILLED_IN)


def test_the_settings_stay_a_class_that_omegaconf_can_read():
    assert OmegaConf.structured(adapter.R2VPOPolicyLossConfig).anchor == "behaviour"


def test_objectives_without_lambda_leave_it_where_it_is(config):
    config.actor_rollout_ref.actor.policy_loss.update(objective="sapo", delta=0.1, lam=0.3)
    dual = adapter.check_config(config).make_dual()
    dual.update(7.0)
    assert dual.lam == 0.3


def test_every_trainer_of_verl_refuses_ratios_against_the_current_policy(config):
    """verl builds the actor's configuration before any trainer starts, and so do the workers."""
    config.algorithm.rollout_correction.bypass_mode = False
    with pytest.raises(Exception, match="bypass_mode=False is not allowed"):
        omega_conf_to_dataclass(config.actor_rollout_ref.actor)


@pytest.mark.parametrize(
    "settings", [{"utd": 0}, {"utd": 1.5}, {"buffer_iterations": 0}, {"seed": -1}, {"buffer_size": 4}]
)
def test_a_sampler_setting_out_of_range_is_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        make_sampler(**settings)
