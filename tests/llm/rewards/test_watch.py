"""Rewards that never come end a run with an error that names them, and never with an untrained model."""

import functools

import pytest
from llm_runs import ROWS, SETTINGS, make, resume, starts_with_a_digit
from tiny_models import tiny_model, tiny_tokenizer

from r2vpo.errors import NoVerdicts, RewardError
from r2vpo.llm import R2VPOTrainer
from r2vpo.llm.rewards.watch import VerdictWatch
from r2vpo.runs.directory import read_metrics


def broken(completions, **columns):
    return [completion["text"] for completion in completions]


def silent(completions, **columns):
    return [None] * len(completions)


async def broken_async(completions, **columns):
    raise ConnectionError("the judge is away")


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (broken, "'broken' raised in 3 of 3 calls, at last TypeError: string indices must be integers"),
        (silent, "'silent' had no verdict on 96 of 96 completions"),
        (functools.partial(broken_async), "'broken_async' raised in 3 of 3 calls, at last ConnectionError: the judge"),
        ([starts_with_a_digit, silent], "3 iterations had a reward: reward 'silent' had no verdict on 96 of 96"),
    ],
)
def test_a_reward_that_never_judges_ends_the_run_and_is_named(tmp_path, reward, said):
    trainer = make(reward, run_dir=tmp_path / "run")
    with pytest.raises(NoVerdicts, match=said) as error:
        trainer.train(progress_bar=False)
    assert isinstance(error.value, RewardError)
    trainer.close()
    assert len(read_metrics(tmp_path / "run")) == 3
    assert not (tmp_path / "run" / "model").exists()
    assert not (tmp_path / "run" / "summary.json").exists()


def test_the_run_is_kept_and_resumed_with_a_reward_that_judges(tmp_path):
    calls = []

    def fails_later(completions, **columns):
        calls.append(1)
        return starts_with_a_digit(None, completions, None) if len(calls) <= 2 else silent(completions)

    trainer = make(fails_later, run_dir=tmp_path / "run", eval_every=0)
    with pytest.raises(NoVerdicts):
        trainer.train(progress_bar=False)
    trainer.close()
    assert trainer.rollouts == 5 * 32
    resumed = resume(tmp_path / "run")
    assert resumed.rollouts == 5 * 32
    assert resumed.train(progress_bar=False)["rollouts"] == 6 * 32
    assert (tmp_path / "run" / "model").is_dir()


def test_a_short_run_and_a_run_resumed_at_its_end_save_no_untrained_model(tmp_path):
    trainer = make(silent, run_dir=tmp_path / "run", total_rollouts=2 * 32)
    with pytest.raises(NoVerdicts, match="2 iterations"):
        trainer.train(progress_bar=False)
    trainer.close()
    again = resume(tmp_path / "run")
    with pytest.raises(NoVerdicts):
        again.train(progress_bar=False)
    again.close()
    assert not (tmp_path / "run" / "model").exists()


def test_an_error_in_the_middle_saves_what_was_computed_before_it(tmp_path):
    """Resumed, the run is the one without the error, to the last digit."""
    whole = make(run_dir=tmp_path / "whole", eval_every=0)
    whole.train(progress_bar=False)
    calls = []

    def wrong_length_once(completions, **columns):
        calls.append(1)
        return [1.0] if len(calls) == 4 else starts_with_a_digit(None, completions, None)

    trainer = make(wrong_length_once, run_dir=tmp_path / "run", eval_every=0)
    with pytest.raises(RewardError, match="returned 1 results for 32"):
        trainer.train(progress_bar=False)
    trainer.close()
    resumed = resume(tmp_path / "run")
    assert resumed.rollouts == 3 * 32
    resumed.train(progress_bar=False)
    assert [line["reward"] for line in read_metrics(tmp_path / "run")] == [
        line["reward"] for line in read_metrics(tmp_path / "whole")
    ]
    for name, weight in whole.model.state_dict().items():
        assert weight.equal(resumed.model.state_dict()[name])


def test_iterations_without_verdicts_only_count_in_a_row(caplog):
    watch = VerdictWatch()
    for judged in (0, 0, 1, 0, 0):
        watch.add(judged, 4, {"f": 4 - judged}, {})
        watch.end_iteration()
    assert watch.silent == 2
    assert "reward 'f' had no verdict on 8 of 8 completions" in caplog.messages[-1]
    watch.end_run()
    watch.add(0, 4, {"f": 4}, {"f": "KeyError: 1"})
    with pytest.raises(NoVerdicts, match=r"'f' raised in 1 of 3 calls, at last KeyError: 1"):
        watch.end_iteration()


def test_what_a_reward_logs_is_in_the_metrics_and_the_completions(tmp_path):
    steps = []

    def reward(completions, completion_ids, trainer_state, log_metric, log_extra, **columns):
        steps.append((trainer_state.global_step, trainer_state.max_steps))
        log_metric("length", sum(map(len, completion_ids)) / len(completion_ids))
        log_extra("first", [text[:1] for text in completions])
        return starts_with_a_digit(None, completions, None)

    rows = {"train_dataset": ROWS, "processing_class": tiny_tokenizer()}
    trainer = R2VPOTrainer(
        tiny_model(scale=0.1), reward, run_dir=tmp_path / "run", **rows, **{**SETTINGS, "total_rollouts": 64}
    )
    trainer.train(progress_bar=False)
    trainer.close()
    assert steps == [(0, 2), (1, 2)]
    for line in read_metrics(tmp_path / "run"):
        assert line["reward_metrics"] == {"length": line["completion_tokens_mean"]}
    assert '"first": ' in (tmp_path / "run" / "completions.jsonl").read_text()
