import pytest

from r2vpo.errors import ConfigError
from r2vpo.llm.config import METHODS, LLMConfig, resolve_config
from r2vpo.objectives import OBJECTIVES


def test_defaults_are_the_papers():
    config = LLMConfig()
    assert (config.group_size, config.lam, config.dual) == (8, 0.04, "fixed")
    assert (config.buffer_iterations, config.utd, config.learning_rate) == (4, 2.0, 1e-6)
    assert config.prompts_per_iteration == 128
    assert config.behaviour_log_probs == "engine"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_a_valid_configuration(method):
    config = resolve_config({"method": method})
    assert config.method == method
    assert config.objective in OBJECTIVES


def test_what_is_given_wins_over_method_and_preset():
    config = resolve_config({"method": "grpo", "learning_rate": 0.5, "group_size": 4})
    assert (config.objective, config.algo, config.learning_rate, config.group_size) == ("ppo_clip", "on-policy", 0.5, 4)


def test_preset_of_the_tiny_model_leaves_other_models_alone():
    assert resolve_config({"model": "some/model", "dataset": "gsm8k"}).learning_rate == 1e-6
    assert resolve_config({"model": "some/model", "dataset": "gsm8k"}).reward == ("math_verify",)
    assert resolve_config({"dataset": "reasoning-gym:chain_sum"}).reward == ("reasoning_gym",)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"top_p": 0.9}, "top_p=0.9"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"lam": -1.0}, "lam=-1.0"),
        ({"dual": "paper"}, "delta=None"),
        ({"dual": "adaptive", "delta": 0.1, "lam": 0.0}, "lam=0.0"),
        ({"delta": 0.0}, "delta=0.0"),
        ({"group_size": 1}, "group_size=1"),
        ({"minibatch_size": 10_000}, "minibatch_size=10000"),
        ({"method": "ppo3"}, "method='ppo3'"),
        ({"objective": "reinforce"}, "objective='reinforce'"),
        ({"reward": ()}, "reward=()"),
        ({"reward_weights": (1.0, 2.0)}, "reward_weights"),
        ({"reward_weights": (0.0,)}, "reward_weights"),
        ({"prompt_template": "Answer:"}, "prompt_template"),
        ({"overlong_tokens": 4096}, "overlong_tokens"),
        ({"engine": "sglang"}, "engine='sglang'"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"trust_remote_code": "yes"}, "trust_remote_code='yes'"),
        ({"batch": 3}, "batch=3"),
    ],
)
def test_bad_settings_name_field_and_value(settings, said):
    with pytest.raises(ConfigError, match="is not allowed") as caught:
        resolve_config(settings)
    assert said in str(caught.value)
