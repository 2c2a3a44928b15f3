"""Collecting with an engine whose answers are known."""

from types import SimpleNamespace

import numpy as np
import pytest

from r2vpo.errors import ConfigError, RolloutError
from r2vpo.llm.collection import (
    Collector,
    Group,
    PromptStream,
    describe,
    overlong_penalty,
    to_iteration,
)
from r2vpo.llm.config import LLMConfig
from r2vpo.llm.data.problems import Problem, check_context
from r2vpo.llm.distributed import AcceleratedProcesses
from r2vpo.llm.engines.base import Completion
from r2vpo.llm.evaluation.held_out import accuracy
from r2vpo.llm.experience import unpack

CONFIG = {"group_size": 2, "prompts_per_iteration": 3, "minibatch_size": 2, "max_completion_tokens": 8}


class Engine:
    """Answers every prompt with its last token and the place in the group."""

    weight_version = 0

    def __init__(self, log_prob=-1.0):
        self.log_prob = log_prob
        self.seeds = []

    def generate(self, prompts, group_size, sampling, seeds):
        self.seeds += seeds
        return [
            Completion(np.array([p[-1], g], dtype=np.int32), np.full(2, self.log_prob, dtype=np.float32), True, 0)
            for p in prompts
            for g in range(group_size)
        ]


def second_is_right(prompts, completions, **columns):
    return [None if "skip" in c else float(c.endswith("1")) for c in completions]


def collector(reward=second_is_right, engine=None, problems=4, **settings):
    config = LLMConfig(**{**CONFIG, **settings})
    rows = [Problem({"prompt": f"p{i}", "answer": str(i)}, (i, i)) for i in range(problems)]

    def decode(tokens):
        return " ".join(map(str, tokens))

    functions = [("reward", reward)]
    return Collector(engine or Engine(), PromptStream(rows, 0), functions, decode, config, AcceleratedProcesses())


def test_groups_hold_the_completions_of_their_problem_and_advantages_are_group_relative():
    it = collector()
    groups, seconds = it.collect()
    assert len(groups) == 3
    assert set(seconds) == {"generate_seconds", "verify_seconds"}
    for group in groups:
        assert [c.tokens[0] for c in group.completions] == [group.problem.tokens[-1]] * 2
        assert group.rewards.tolist() == [0.0, 1.0]
    samples = unpack(to_iteration(groups, it.config), age=0)
    np.testing.assert_allclose([s.advantage for s in samples], [-1, 1] * 3, atol=1e-5)
    halved = LLMConfig(**CONFIG, advantage_scale="none")
    assert [s.advantage for s in unpack(to_iteration(groups, halved), age=0)] == [-0.5, 0.5] * 3


def test_partial_credit_solves_a_problem_only_above_the_bar():
    def partial(prompts, completions, **columns):
        return [0.3 if prompt == "p0" else 1.0 for prompt in prompts]

    shares = []
    for bar in (0.0, 0.99, 1.0):
        it = collector(partial, solved_above=bar)
        shares.append(accuracy(it, it.stream.problems))
    assert shares == [1.0, 0.75, 0.0]


def test_seeds_never_repeat_and_depend_on_the_seed_of_the_run():
    one, again, other = collector(), collector(), collector(seed=1)
    for it in (one, again, other):
        it.collect()
        it.collect()
    assert len(set(one.engine.seeds)) == 12
    assert one.engine.seeds == again.engine.seeds
    assert not set(one.engine.seeds) & set(other.engine.seeds)


def test_missing_verdicts_are_left_out_and_counted_never_zero():
    def reward(prompts, completions, **columns):
        return [None if c.startswith("0 ") else r for c, r in zip(completions, [1.0, 0.0] * 3, strict=True)]

    it = collector(reward, problems=3)
    groups, _ = it.collect()
    samples = unpack(to_iteration(groups, it.config), age=0)
    assert len(samples) == 4
    figures = describe(groups)
    assert figures["excluded"] == 2
    assert figures["excluded_by_function"] == {"reward": 2}
    assert figures["reward"] == 0.5
    assert figures["mixed_groups"] == pytest.approx(2 / 3)


def test_nothing_verified_is_nothing_to_learn_from():
    it = collector(lambda prompts, completions, **columns: [None] * len(completions))
    groups, _ = it.collect()
    assert to_iteration(groups, it.config) is None
    assert describe(groups)["reward"] is None


def test_dynamic_sampling_replaces_groups_with_equal_rewards():
    def reward(prompts, completions, **columns):
        return [float(p in ("p1", "p2") and c.endswith("1")) for p, c in zip(prompts, completions, strict=True)]

    it = collector(reward, dynamic_sampling=True, max_sampling_rounds=10)
    groups, _ = it.collect()
    assert len(groups) == 3
    assert all(group.mixed for group in groups)
    assert it.generated > 6
    few = collector(reward, dynamic_sampling=True, max_sampling_rounds=1)
    assert len(few.collect()[0]) < 3


def test_keep_informative_leaves_out_what_has_no_advantage():
    problem = Problem({"prompt": "p"}, (1,))
    equal, mixed = (
        Group(problem, Engine().generate([[1]], 2, None, []), np.array(rewards)) for rewards in ([1.0, 1.0], [0.0, 1.0])
    )
    assert len(to_iteration([equal, mixed], LLMConfig(**CONFIG))["ends"]) == 4
    assert len(to_iteration([equal, mixed], LLMConfig(**CONFIG, keep="informative"))["ends"]) == 2


def test_log_probs_that_are_not_finite_are_an_error_that_counts_them():
    with pytest.raises(RolloutError, match="6 of 6"):
        collector(engine=Engine(float("nan"))).collect()


def test_overlong_penalty_is_linear_in_the_last_tokens():
    np.testing.assert_allclose(overlong_penalty(np.array([5, 10, 15, 20]), 20, 10), [0, 0, -0.5, -1.0])
    assert not overlong_penalty(np.array([20]), 20, 0).any()


def test_overlong_penalty_is_added_to_rewards():
    it = collector(max_completion_tokens=3, overlong_tokens=2)
    groups, _ = it.collect()
    assert groups[0].rewards.tolist() == [-0.5, 0.5]  # two tokens of three, over a width of two


def test_stream_deals_every_problem_once_a_pass_and_goes_on_where_it_was():
    problems = [Problem({}, (i,)) for i in range(5)]
    stream = PromptStream(problems, 3)
    first = [p.tokens[0] for p in stream.take(5)]
    assert sorted(first) == list(range(5))
    second = [p.tokens[0] for p in stream.take(5)]
    assert sorted(second) == list(range(5))
    later = PromptStream(problems, 3)
    later.dealt = 4
    assert [p.tokens[0] for p in later.take(3)] == [first[4], *second[:2]]


@pytest.mark.parametrize("nested", [False, True])
def test_prompt_and_completion_have_to_fit_the_context_also_of_a_text_model_inside_another(nested):
    text = SimpleNamespace(max_position_embeddings=20)
    outer = SimpleNamespace() if nested else text
    outer.get_text_config = lambda: text
    model = SimpleNamespace(config=outer)
    check_context(model, LLMConfig(**CONFIG, max_prompt_tokens=12))
    with pytest.raises(ConfigError, match=r"max_completion_tokens=8.*at most 7: the model's context is 20 tokens"):
        check_context(model, LLMConfig(**CONFIG, max_prompt_tokens=13))
