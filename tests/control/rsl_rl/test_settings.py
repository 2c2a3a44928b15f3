"""Settings of the adapter, those of existing configurations, and the versions of rsl_rl."""

import importlib
import subprocess
import sys
import warnings

import pytest

pytest.importorskip("rsl_rl", reason="rsl-rl-lib is not installed")

from rsl_rl_two_processes import MODEL, build, mirror, updated

from r2vpo.errors import ConfigError, HostVersionError

ISAAC_LAB = {  # what its configurations and those of mjlab carry
    "num_learning_epochs": 5,
    "num_mini_batches": 4,
    "learning_rate": 1e-3,
    "schedule": "adaptive",
    "gamma": 0.99,
    "lam": 0.95,
    "entropy_coef": 0.005,
    "desired_kl": 0.01,
    "max_grad_norm": 1.0,
    "optimizer": "adam",
    "value_loss_coef": 1.0,
    "use_clipped_value_loss": True,
    "clip_param": 0.2,
    "normalize_advantage_per_mini_batch": False,
    "share_cnn_encoders": False,
    "rnd_cfg": None,
    "symmetry_cfg": None,
}


def test_a_configuration_of_isaac_lab_works_and_warns_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        algorithm = build(**ISAAC_LAB)
        losses = updated(algorithm, range(2))
    (warning,) = [w for w in caught if "R2VPO" in str(w.message)]
    assert "schedule='adaptive'" in str(warning.message)
    assert "0.001" in str(warning.message)
    assert algorithm.schedule == "fixed"
    assert algorithm.learning_rate == 1e-3
    assert losses["skipped_steps"] == 0


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"schedule": "cosine"}, "schedule"),
        ({"objective": "trpo"}, "objective"),
        ({"objective": "dppo"}, "objective"),  # densities are no probabilities
        ({"dual": "newton"}, "dual"),
        ({"dual_lam": -1.0}, "dual_lam"),
        ({"dual_lam": 0.0}, "dual_lam"),
        ({"delta": None}, "delta"),
        ({"eta": 0.0}, "eta"),
        ({"buffer_iterations": 0}, "buffer_iterations"),
        ({"utd": 0}, "utd"),
        ({"trace_cap": 0.0}, "trace_cap"),
        ({"anchor": "nearest"}, "anchor"),
        ({"save_buffer": 1}, "save_buffer"),
        ({"eps": 0.2}, "eps"),
        ({"clip_ratio": 0.2}, "clip_ratio"),
        ({"symmetry_cfg": {"data_augmentation_func": mirror, "use_data_augmentation": True}}, "symmetry_cfg"),
        ({"model": {**MODEL, "class_name": "RNNModel", "rnn_type": "gru"}}, "actor"),
    ],
)
def test_settings_that_are_refused(settings, field):
    with pytest.raises(ConfigError) as caught:
        build(**settings)
    assert caught.value.field.startswith(field)


def test_another_version_is_refused_with_the_supported_range(monkeypatch):
    import r2vpo.control.rsl_rl as module

    monkeypatch.setattr("r2vpo.errors.version", lambda name: "3.1.0")
    with pytest.raises(HostVersionError, match=r"rsl-rl-lib 3\.1\.0 .*>=5\.5,<5\.6.*r2vpo\[rsl-rl\]"):
        importlib.reload(module)


def test_the_package_alone_does_not_load_rsl_rl():
    code = "import r2vpo, r2vpo.control, r2vpo.processes, sys; sys.exit('rsl_rl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
