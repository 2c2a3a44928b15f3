"""What a run says where prompts, completions and the model's context do not fit."""

from types import SimpleNamespace

import pytest

from r2vpo.errors import ConfigError
from r2vpo.llm.config import LLMConfig
from r2vpo.llm.data.problems import Problem, check_context, make_problems
from r2vpo.llm.engines.base import context_length
from r2vpo.llm.models.tiny_tokenizer import make_tokenizer


def model(**settings):
    config = SimpleNamespace(**settings)
    config.get_text_config = lambda: config
    return SimpleNamespace(config=config)


def config(prompt, completion):
    sizes = {"prompts_per_iteration": 2, "group_size": 2, "minibatch_size": 2}
    return LLMConfig(max_prompt_tokens=prompt, max_completion_tokens=completion, **sizes)


@pytest.mark.parametrize(
    ("prompt", "completion", "said"),
    [
        (16, 1024, r"max_completion_tokens=1024 .* at most 112: .* context is 128 tokens, max_prompt_tokens 16;"),
        (640, 8, r"max_prompt_tokens=640 .* at most 120, .* context is 128 tokens, max_completion_tokens 8;"),
        (128, 8, r"max_prompt_tokens=128 .* at most 120, .* context is 128 tokens, max_completion_tokens 8;"),
        (640, 1024, r"max_prompt_tokens=640 .* at most 127, .* context is 128 tokens, max_completion_tokens 1024;"),
    ],
)
def test_what_does_not_fit_says_the_context_the_prompt_and_a_number_that_does(prompt, completion, said):
    problems = [Problem({}, (1,) * length) for length in (3, 90, 5)]
    with pytest.raises(ConfigError, match=said + " the longest prompt of the dataset has 90 tokens"):
        check_context(model(max_position_embeddings=128), config(prompt, completion), problems)
    check_context(model(), config(prompt, completion), problems)


def test_the_length_of_a_context_has_several_names():
    assert context_length(model(max_position_embeddings=128, seq_length=64)) == 128
    assert context_length(model(max_position_embeddings=None, max_seq_len=64)) == 64
    assert context_length(model(max_position_embeddings=-1)) is None


def test_prompts_that_are_all_too_long_say_how_long():
    rows = [{"prompt": "1" * 9}, {"prompt": "1" * 7}]
    with pytest.raises(ConfigError, match=r"max_prompt_tokens=4 .* all 2 prompts .* shortest has 8 tokens"):
        make_problems(rows, make_tokenizer(), config(4, 8))
