"""Held-out evaluations that fail cost a run nothing: they are named in its summary, and made when it is resumed."""

import json
import logging

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from llm_runs import ROWS, make, resume, starts_with_a_digit

from r2vpo.errors import R2VPOError
from r2vpo.llm.evaluation.held_out import judged_accuracy
from r2vpo.runs.directory import read_metrics

HELD_OUT = [{"prompt": row["prompt"], "answer": "held out"} for row in ROWS[:10]]


def failing_on_held_out(how):
    def reward(completions, answer, **columns):
        return how(completions) if answer[0] == "held out" else starts_with_a_digit(None, completions, answer)

    return reward


def broken(completions):
    raise OSError("no network")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            broken,
            "NoVerdicts: no answer to the held-out problems had a reward: reward 'reward' had no verdict on 10 of",
        ),
        (lambda completions: [None] * len(completions), "had no verdict on 10 of 10 completions"),
    ],
)
def test_a_reward_without_verdicts_on_held_out_problems_is_in_the_summary(tmp_path, how, said, capsys):
    trainer = make(failing_on_held_out(how), run_dir=tmp_path / "run", eval_dataset=HELD_OUT, total_rollouts=64)
    summary = trainer.train(progress_bar=False)
    trainer.close()
    assert summary["accuracy_greedy"] is None
    assert said in summary["missing"]["evaluation"]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["missing"] == summary["missing"]
    for name in ("model/config.json", "curve.png"):
        assert (tmp_path / "run" / name).exists()
    later = resume(tmp_path / "run")
    again = later.train(progress_bar=False)
    assert "missing" not in again
    assert 0 <= again["accuracy_greedy"] <= 1
    assert again["first_accuracy_greedy"] is None  # the trained model is not the first one


def test_a_reward_that_is_unusable_in_the_middle_stops_no_training(tmp_path, caplog):
    calls = []

    def short(completions):
        calls.append(len(completions))
        return [1.0] * len(completions) if len(calls) <= 2 else [1.0]  # greedy and sampled, before training

    trainer = make(failing_on_held_out(short), run_dir=tmp_path / "run", eval_dataset=HELD_OUT, total_rollouts=64)
    with caplog.at_level(logging.WARNING):
        summary = trainer.train(progress_bar=False)
    assert "no held-out accuracy at rollout 64: RewardError: reward 'reward' returned 1 results for 10" in caplog.text
    assert (summary["rollouts"], summary["first_accuracy_greedy"], summary["accuracy_greedy"]) == (64, 1.0, None)
    assert "RewardError" in summary["missing"]["evaluation"]
    assert [line["accuracy_greedy"] for line in read_metrics(tmp_path / "run")] == [None, None]


def test_a_stop_in_the_closing_evaluation_leaves_model_and_summary(tmp_path):
    def stopped(completions):
        raise KeyboardInterrupt

    settings = {"eval_dataset": HELD_OUT, "total_rollouts": 32, "eval_every": 0}
    trainer = make(failing_on_held_out(stopped), run_dir=tmp_path / "run", **settings)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(progress_bar=False)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["missing"]["evaluation"] == (
        "it was stopped before its end"
    )
    assert (tmp_path / "run" / "model" / "config.json").exists()


def test_no_process_waits_for_one_whose_evaluation_failed():
    class Two:
        """The other process failed."""

        def share(self, items):
            return items[:0]

        def gather(self, items):
            (own,) = items
            return [own, type(own)(failure="OSError: no network")]

    trainer = make(total_rollouts=32)
    trainer.collector.processes = Two()
    with pytest.raises(R2VPOError, match="evaluation failed in process 1: OSError: no network"):
        judged_accuracy(trainer.collector, trainer.eval_problems)
