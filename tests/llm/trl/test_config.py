"""Settings and versions that the TRL adapter refuses."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("trl")

from trl_two_processes import settings, share_of_digits

from r2vpo import errors
from r2vpo.errors import ConfigError, HostVersionError


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("beta", {"beta": 0.04}),
        ("loss_type", {"loss_type": "grpo"}),
        ("importance_sampling_level", {"importance_sampling_level": "sequence"}),
        ("epsilon", {"epsilon": 0.1}),
        ("epsilon_high", {"epsilon_high": 0.28}),
        ("vllm_importance_sampling_correction", {"vllm_importance_sampling_correction": True}),
        ("off_policy_mask_threshold", {"off_policy_mask_threshold": 0.5}),
        ("top_entropy_quantile", {"top_entropy_quantile": 0.2}),
        ("entropy_coef", {"entropy_coef": 0.01}),
        ("use_adaptive_entropy", {"use_adaptive_entropy": True}),
        ("top_p", {"top_p": 0.9}),
        ("top_k", {"top_k": 20}),
        ("min_p", {"min_p": 0.1}),
        ("repetition_penalty", {"repetition_penalty": 1.1}),
        ("generation_kwargs", {"generation_kwargs": {"typical_p": 0.9}}),
        ("objective", {"objective": "trpo"}),
        ("eps", {"objective_kwargs": {"eps": 0.1}}),
        ("objective_kwargs", {"objective_kwargs": [0.1]}),
        ("lam", {"lam": -1.0}),
        ("dual", {"dual": "newton"}),
        ("delta", {"dual": "paper"}),
        ("delta", {"dual": "paper", "delta": 0.0}),
        ("buffer_iterations", {"buffer_iterations": 0}),
        ("utd", {"utd": 1.5}),
        ("utd", {"utd": 0}),
        ("num_iterations", {"num_iterations": 4}),
        ("anchor", {"anchor": "nearest"}),
        ("behaviour_log_probs", {"behaviour_log_probs": "vllm"}),
        ("gradient_accumulation_steps", {"gradient_accumulation_steps": 4, "steps_per_generation": 1}),
    ],
)
def test_contradicting_settings_are_named(tmp_path, field, given):
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, **given)
    assert caught.value.field == field
    assert f"{field}=" in str(caught.value)


def test_settings_changed_later_and_foreign_ones_are_refused(tmp_path):
    import trl
    from datasets import Dataset

    from r2vpo.llm.trl import R2VPOTrainer

    changed = settings(tmp_path)
    changed.beta = 0.1
    plain = trl.GRPOConfig(str(tmp_path), use_cpu=True, bf16=False, num_generations=4)
    for args, field in ((changed, "beta"), (plain, "args")):
        with pytest.raises(ConfigError) as caught:
            R2VPOTrainer(model="no/such-model", reward_funcs=share_of_digits, args=args)
        assert caught.value.field == field
    images = Dataset.from_list([{"prompt": "1+1=", "image": "a"}])
    with pytest.raises(ConfigError, match="images are not replayed"):
        R2VPOTrainer("no/such-model", share_of_digits, settings(tmp_path), images)


@pytest.mark.parametrize("installed", ["1.15.3", "1.17.0", None])
def test_other_versions_of_trl_are_refused(monkeypatch, installed):
    def version(distribution):
        assert distribution == "trl"
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(distribution)
        return installed

    monkeypatch.setattr(errors, "version", version)
    with pytest.raises(HostVersionError, match=r"trl.*>=1\.16,<1\.17.*r2vpo\[trl\]") as caught:
        importlib.reload(sys.modules["r2vpo.llm.trl"])
    assert (installed or "not installed") in str(caught.value)


def test_importing_the_library_does_not_import_trl():
    code = "import sys, r2vpo, r2vpo.llm; assert not {'trl', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
