"""The trainer end to end on a tiny random model: learning, resuming, several processes, bad input."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from r2vpo.errors import (
    CheckpointError,
    ConfigError,
    OutOfMemory,
    RewardError,
    RolloutError,
    RunDirectoryError,
    TrainingDiverged,
)
from r2vpo.llm import R2VPOTrainer, training
from r2vpo.llm.config import METHODS
from r2vpo.llm.learner import STOP_WINDOW
from r2vpo.llm.run import restore_snapshot, take_snapshot
from r2vpo.runs.checkpoint import load_tree
from r2vpo.runs.directory import read_metrics

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from llm_runs import ROWS, SETTINGS, make, resume, starts_with_a_digit
from tiny_models import tiny_model, tiny_tokenizer


def train_once(run_dir):
    trainer = make(run_dir=run_dir, total_rollouts=32)
    trainer.train(progress_bar=False)
    trainer.close()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_what_is_rewarded(method):
    trainer = make(method=method, total_rollouts=32 * 20)
    summary = trainer.train(progress_bar=False)
    assert summary["first_accuracy_greedy"] < 0.5
    assert summary["accuracy_greedy"] == 1.0
    assert summary["method"] == method


def test_run_directory_holds_everything_and_the_saved_model_gives_the_same_answers(tmp_path):
    trainer = make(run_dir=tmp_path / "run", total_rollouts=32 * 4)
    summary = trainer.train(progress_bar=False)
    trainer.close()
    run = tmp_path / "run"
    files = ["config.json", "versions.json", "metrics.jsonl", "summary.json", "curve.png", "completions.jsonl"]
    for name in [*files, "tokens.npz", "checkpoints/latest.zip", "model/config.json"]:
        assert (run / name).stat().st_size > 0, name
    assert json.loads((run / "summary.json").read_text())["rollouts"] == summary["rollouts"] == 128
    contract = {"step", "time", "reward", "ratio_variance", "lam", "ess", "max_ratio", "sign_flip", "kl", "entropy"}
    seconds = {"generate_seconds", "verify_seconds", "train_seconds", "sync_seconds"}
    metrics = read_metrics(run)
    assert [line["step"] for line in metrics] == [32, 64, 96, 128]
    assert all(contract | seconds <= set(line) for line in metrics)
    assert set(metrics[-1]["ratio_variance_by_age"]) == {"0", "1", "2", "3"}
    assert [line["accuracy_greedy"] is not None for line in metrics] == [False, True, False, True]
    assert ["pass_at_1" in line for line in metrics] == [False, True, False, True]
    first = summary["first_accuracy_greedy"], summary["first_pass_at_1"]
    assert (metrics[0]["first_accuracy_greedy"], metrics[0]["first_pass_at_1"]) == first
    assert all(0 <= value < 0.5 for value in first)
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(run / "model")
    for name, values in trainer.model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], values, rtol=0, atol=0)


def test_an_update_ends_once_the_newest_completions_are_further_away_than_allowed():
    steps = {}
    for bound in (None, 1e9, 1e-3):
        seen = steps[bound] = []
        count = lambda _, metrics, seen=seen: seen.append(metrics["gradient_steps"])  # noqa: E731
        settings = {"utd": 8, "buffer_iterations": 2, "total_rollouts": 64, "eval_every": 0, "eval_samples": 0}
        make(callbacks=count, stop_above=bound, **settings).train(progress_bar=False)
    assert steps[None] == steps[1e9] == [16, 16]
    assert all(STOP_WINDOW <= number < 16 for number in steps[1e-3])


def test_ratio_is_one_before_the_first_gradient_step():
    trainer = make(behaviour_log_probs="trainer", method="r2vpo-on", minibatch_size=32, total_rollouts=32)
    trainer.train(progress_bar=False)
    recent = trainer.learner.updater.recent
    assert len(recent.log_ratio) > 32
    assert recent.log_ratio.abs().max() < 1e-6  # a matrix product of another shape may round the last bit otherwise


def test_proximal_anchor_starts_every_update_at_ratio_one_and_weighs_the_advantages():
    trainer = make(method="r2vpo-off", anchor="proximal", total_rollouts=32 * 4, learning_rate=0.02, eval_every=0)
    learner = trainer.learner
    original, checked = learner._anchored, []

    def anchored(samples):
        result = original(samples)
        for before, after, now in zip(samples, result, learner.log_probs(samples), strict=True):
            torch.testing.assert_close(after.old_log_probs, now, rtol=0, atol=1e-5)
            torch.testing.assert_close(after.weights, (now - before.old_log_probs).exp().clamp(max=1.0))
            checked.append((before.age, float(after.weights.min())))
        return result

    learner._anchored = anchored
    trainer.train(progress_bar=False)
    assert {age for age, _ in checked} == {0, 1, 2, 3}
    assert min(weight for age, weight in checked if age == 0) > 1 - 1e-4
    assert min(weight for age, weight in checked if age == 3) < 0.9


def test_engine_log_probs_leave_only_rounding(capsys):
    trainer = make(method="r2vpo-on", minibatch_size=32, total_rollouts=32)
    trainer.train(progress_bar=False)
    assert trainer.engine_mismatch < 1e-9
    assert "engine mismatch" in capsys.readouterr().out


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_aggregation": "token-mean"},
        {"loss_aggregation": "seq-mean"},
        {"method": "m2po", "objective_kwargs": {"tau": 1e-4}},  # ranks the tokens of a minibatch
    ],
)
def test_gradients_do_not_depend_on_the_micro_batch_size(settings):
    weights = []
    for budget in (16_384, 20):
        trainer = make(tokens_per_micro_batch=budget, total_rollouts=32 * 3, eval_every=0, **settings)
        trainer.train(progress_bar=False)
        weights.append(trainer.model.state_dict())
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=2e-3, atol=2e-5)


def test_aggregations_differ_where_lengths_do():
    losses = []
    for aggregation in ("token-mean", "seq-mean"):
        trainer = make(loss_aggregation=aggregation, total_rollouts=32, method="r2vpo-on", eval_every=0)
        trainer.train(progress_bar=False)
        losses.append(trainer.model.state_dict()["model.embed_tokens.weight"].clone())
    assert not torch.equal(*losses)


def strip_times(tree):
    counters = {name: value for name, value in tree["counters"].items() if name != "train_seconds"}
    return {**{k: v for k, v in tree.items() if k not in ("config", "versions")}, "counters": counters}


def assert_same(one, two, where=""):
    assert type(one) is type(two), where
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_same(one[key], two[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for i, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_same(a, b, f"{where}/{i}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    else:
        assert one == two, where


@pytest.mark.parametrize("method", ["r2vpo-off", "grpo"])
def test_stopped_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, method):
    whole = make(run_dir=tmp_path / "whole", method=method)
    whole.train(progress_bar=False)
    stopped = make(run_dir=tmp_path / "part", method=method, callbacks=[lambda t, m: t.iterations < 3])
    stopped.train(progress_bar=False)
    stopped.close()
    later = resume(tmp_path / "part")
    assert later.rollouts == 96
    later.train(progress_bar=False)
    trees = [load_tree(tmp_path / name / "checkpoints" / "latest.zip") for name in ("whole", "part")]
    assert_same(*map(strip_times, trees))
    timeless = [
        [{k: v for k, v in line.items() if k != "time" and "second" not in k} for line in read_metrics(tmp_path / name)]
        for name in ("whole", "part")
    ]
    assert timeless[0] == timeless[1]


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from llm_runs import make
if __name__ == "__main__":
    {body}
"""


def script(tmp_path, body):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(tests=str(Path(__file__).parents[1] / "support"), body=body))
    return path


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def test_killed_run_resumes_from_its_checkpoint(tmp_path):
    body = f"make(run_dir={str(tmp_path / 'run')!r}, total_rollouts=10**6, checkpoint_seconds=0.0).train(False)"
    process = subprocess.Popen([sys.executable, str(script(tmp_path, body))], env=environment())
    checkpoint = tmp_path / "run" / "checkpoints" / "latest.zip"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    later = resume(tmp_path / "run")
    assert later.rollouts > 0
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == list(range(32, later.rollouts + 1, 32))
    begun = later.rollouts
    later.callbacks = (lambda t, m: t.rollouts < begun + 64,)
    later.train(progress_bar=False)
    assert later.rollouts == begun + 64


def test_two_processes_give_the_losses_of_one(tmp_path):
    body = "make(run_dir={!r}, total_rollouts=32 * 4, anchor='proximal').train(False)"
    for count in (1, 2):
        run = str(tmp_path / f"run{count}")
        # Without a GPU, --multi_gpu starts processes that talk over gloo.
        launch = [sys.executable, "-m", "accelerate.commands.launch", *(["--multi_gpu"] if count > 1 else ["--cpu"])]
        launch += f"--num_machines 1 --num_processes {count} --mixed_precision no --dynamo_backend no".split()
        launch += ["--main_process_port", "0", str(script(tmp_path, body.format(run)))]
        done = subprocess.run(launch, env=environment(), capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (read_metrics(tmp_path / f"run{count}") for count in (1, 2))
    assert json.loads((tmp_path / "run2" / "summary.json").read_text())["processes"] == 2
    for name in ("reward", "ratio_variance", "grad_norm", "entropy", "kl", "ess"):
        np.testing.assert_allclose([x[name] for x in one], [x[name] for x in two], rtol=2e-3, atol=1e-6, err_msg=name)
    trees = [load_tree(tmp_path / f"run{count}" / "checkpoints" / "latest.zip") for count in (1, 2)]
    for name, values in trees[0]["learner"]["weights"].items():
        torch.testing.assert_close(trees[1]["learner"]["weights"][name], values, rtol=1e-3, atol=1e-5)


def test_lora_trains_adapters_alone_and_saves_a_merged_model(tmp_path):
    pytest.importorskip("peft")
    tiny_model(scale=0.1).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    objects = {"train_dataset": ROWS, "eval_dataset": ROWS[:10], "run_dir": tmp_path / "run"}
    trainer = R2VPOTrainer(str(tmp_path / "base"), starts_with_a_digit, lora_rank=4, **objects, **SETTINGS)
    trainer.train(progress_bar=False)
    stored = load_tree(tmp_path / "run" / "checkpoints" / "latest.zip")["learner"]["weights"]
    assert stored
    assert all("lora" in name for name in stored)
    from transformers import AutoModelForCausalLM

    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, trainer.model(ids).logits, rtol=1e-4, atol=1e-4)


def test_missing_verdicts_are_counted_and_reported(tmp_path):
    def reward(prompts, completions, **columns):
        return [None if i % 2 else float(c[:1].isdigit()) for i, c in enumerate(completions)]

    make(reward, run_dir=tmp_path / "run").train(progress_bar=False)
    assert all(line["excluded"] == 16 for line in read_metrics(tmp_path / "run"))


def test_equal_rewards_for_many_steps_are_warned_about(caplog):
    trainer = make(lambda prompts, completions, **columns: [1.0] * len(completions), total_rollouts=32 * 11)
    with caplog.at_level(logging.WARNING):
        trainer.train(progress_bar=False)
    assert "nothing to learn from" in caplog.text
    assert trainer.uninformative_iterations == 11


def test_engine_mismatch_near_delta_is_warned_about(caplog, monkeypatch):
    trainer = make(dual="adaptive", delta=1e-13, lam=1.0, total_rollouts=32)
    with caplog.at_level(logging.WARNING):
        trainer.train(progress_bar=False)
    assert "close to delta=1e-13" in caplog.text


@pytest.mark.parametrize(("schedule", "kept"), [("linear", 96), ("constant", 192)])
def test_tokens_for_figure_2_are_of_an_update_that_still_moved_the_policy(tmp_path, schedule, kept):
    trainer = make(run_dir=tmp_path / "run", lr_schedule=schedule)
    trainer.train(progress_bar=False)
    trainer.close()
    assert int(np.load(tmp_path / "run" / "tokens.npz")["step"]) == kept


def test_held_out_problems_are_optional():
    rows = {"train_dataset": ROWS, "processing_class": tiny_tokenizer()}
    trainer = R2VPOTrainer(tiny_model(), starts_with_a_digit, **rows, **{**SETTINGS, "total_rollouts": 32})
    assert trainer.train(progress_bar=False)["accuracy_greedy"] is None


def test_long_prompts_are_left_out_and_counted(caplog):
    rows = [*ROWS[:5], {"prompt": "1" * 40, "answer": "1"}]
    with caplog.at_level(logging.WARNING):
        trainer = make(rows=rows)
    assert "left out 1 of 6 problems" in caplog.text
    assert len(trainer.collector.stream.problems) == 5


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"rows": []}, ConfigError, "dataset"),
        ({"rows": [{"text": "1+1="}]}, ConfigError, "prompt_column='prompt'.*one of the columns text"),
        ({"rows": [*ROWS[:3], {"prompt": None, "answer": "1"}]}, ConfigError, "prompt=None.*row 3"),
        ({"rows": [{"prompt": "1+1="}]}, RewardError, "'starts_with_a_digit' does not fit.*it needs answer"),
        ({"rows": [{"prompt": "1" * 40}]}, ConfigError, "max_prompt_tokens=16"),
        ({"max_completion_tokens": 400}, ConfigError, "context is 128 tokens"),
        ({"reward": lambda prompts, completions, **columns: [1.0]}, RewardError, "returned"),
        ({"processing_class": None}, ConfigError, "processing_class"),
        ({"processing_class": tiny_tokenizer(eos=False)}, ConfigError, "EOS|eos|end-of-sequence"),
        ({"engine": "sglang"}, ConfigError, "engine='sglang'"),
        ({"reward": "no_such_reward"}, ConfigError, "reward='no_such_reward'"),
    ],
)
def test_bad_input_is_a_clear_error(settings, error, said):
    model = None
    if "EOS" in said:
        model = tiny_model()
        model.config.eos_token_id = model.generation_config.eos_token_id = None
    with pytest.raises(error, match=said):
        make(model=model, **settings).train(progress_bar=False)


def test_a_dataset_that_changed_between_stop_and_resume_is_noticed(tmp_path):
    make(run_dir=tmp_path / "run", total_rollouts=32, eval_every=0).train(progress_bar=False)
    changed = [*ROWS[:-1], {**ROWS[-1], "answer": "99"}]
    for rows in (changed, ROWS[:-1], ROWS[::-1]):
        with pytest.raises(CheckpointError, match=r"dataset='given' has changed since the checkpoint \(100 rows"):
            resume(tmp_path / "run", train_dataset=rows)
    resume(tmp_path / "run").close()


def test_a_checkpoint_without_a_fingerprint_is_taken(tmp_path):
    trainer = make(run_dir=tmp_path / "run", total_rollouts=32, eval_every=0)
    trainer.train(progress_bar=False)
    tree = take_snapshot(trainer)
    del tree["dataset"], tree["judged"]
    restore_snapshot(trainer, tree)
    trainer.close()
    assert trainer.rollouts == 32


def test_failed_start_leaves_the_folder_free_for_the_next_attempt(tmp_path):
    with pytest.raises(ConfigError):
        make(run_dir=tmp_path / "run", max_completion_tokens=400)
    make(run_dir=tmp_path / "run").close()
    with pytest.raises(RunDirectoryError, match="already holds a run"):
        make(run_dir=tmp_path / "run")


def test_checkpoint_of_another_model_does_not_fit(tmp_path):
    train_once(tmp_path / "run")
    given = {"train_dataset": ROWS, "eval_dataset": ROWS, "processing_class": tiny_tokenizer()}
    with pytest.raises(CheckpointError, match="does not fit"):
        R2VPOTrainer.resume(tmp_path / "run", tiny_model(hidden_size=64), starts_with_a_digit, **given)


def test_truncated_checkpoint_is_an_error(tmp_path):
    train_once(tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "latest.zip"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated"):
        resume(tmp_path / "run")


def test_objects_have_to_be_given_again(tmp_path):
    train_once(tmp_path / "run")
    with pytest.raises(ConfigError, match="train_dataset"):
        R2VPOTrainer.resume(tmp_path / "run")


def test_running_out_of_memory_comes_with_advice(monkeypatch):
    trainer = make()

    def fail(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer.learner.policy, "log_prob", fail)
    with pytest.raises(OutOfMemory, match=r"tokens_per_micro_batch=.*gradient_checkpointing"):
        trainer.train(progress_bar=False)


def test_weights_that_are_not_finite_reach_no_checkpoint(tmp_path, monkeypatch):
    trainer = make(run_dir=tmp_path / "run", total_rollouts=64, eval_every=0, checkpoint_seconds=0.0)
    update = trainer.learner.update

    def overflow(*arguments):
        summary = update(*arguments)
        if trainer.iterations == 1:
            trainer.model.model.norm.weight.data[0] = float("inf")
        return summary

    monkeypatch.setattr(trainer.learner, "update", overflow)
    with pytest.raises(TrainingDiverged, match=r"1 of \d+ weights .* update 2, such as model.norm.weight \(float32\)"):
        trainer.train(progress_bar=False)
    assert not (tmp_path / "run" / "model").exists()
    assert load_tree(tmp_path / "run" / "checkpoints" / "latest.zip")["counters"]["rollouts"] == 32


def test_a_model_whose_logits_are_no_numbers_ends_with_an_error_after_all_is_written(tmp_path, monkeypatch):
    trainer = make(run_dir=tmp_path / "run", total_rollouts=32, eval_every=0)

    def broken(*arguments):
        raise RolloutError("logits are not finite")

    monkeypatch.setattr(training, "judged_accuracy", broken)
    with pytest.raises(RolloutError, match="logits are not finite"):
        trainer.train(progress_bar=False)
    assert "RolloutError" in json.loads((tmp_path / "run" / "summary.json").read_text())["missing"]["evaluation"]


def test_log_probs_that_are_not_finite_stop_the_run():
    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(RolloutError):
        make(model=model, eval_every=0).train(progress_bar=False)
