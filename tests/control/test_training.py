"""Compiled gradient steps inside the trainer: when they are chosen, and that a run stays exact."""

import json

import pytest
import torch
from resuming import ITERATION, SMALL, StopAfter

from r2vpo.control import R2VPO, training
from r2vpo.control.presets import resolve_config
from r2vpo.control.training import total_gradient_steps
from r2vpo.errors import ConfigError
from r2vpo.runs.compilation import CompiledFunction, obstacle

needs_compiler = pytest.mark.skipif(obstacle() is not None, reason=str(obstacle()))


def weights(model):
    return model.learner.optimizer.param_groups[0]["params"][0].detach().clone()


def test_gradient_steps_of_a_run_are_counted():
    assert total_gradient_steps(resolve_config({"total_steps": 1000, "algo": "on-policy", **SMALL})) == 9 * 8
    assert total_gradient_steps(resolve_config({"total_steps": 960, "algo": "off-policy", "utd": 3, **SMALL})) == 8 * 24


def test_short_runs_are_eager_and_say_why():
    model = R2VPO("Pendulum-v1", total_steps=ITERATION, **SMALL).learn()
    assert model.gradient_step.kind == "eager"
    assert "8 steps do not pay" in model.gradient_step.reason
    assert (
        R2VPO("Pendulum-v1", gradient_step="eager", **SMALL).learn(ITERATION).gradient_step.reason == "it was asked for"
    )


@needs_compiler
def test_long_runs_are_compiled_as_if_eager(compile_cache, monkeypatch, tmp_path, capsys):
    eager = R2VPO("HalfCheetah-v5", gradient_step="eager", **SMALL).learn(ITERATION)
    monkeypatch.setattr(training, "PAYS_AFTER", 5)
    monkeypatch.setattr(CompiledFunction, "is_cached", False)  # as for the first of the tests that compile this step
    settings = {"run_dir": tmp_path / "run", "total_steps": ITERATION, **SMALL}
    model = R2VPO("HalfCheetah-v5", **settings).learn(progress_bar=True)
    assert model.gradient_step.kind == "compiled"
    assert model.train_seconds > model.gradient_step.seconds > 0
    # After one iteration: from then on, rounding changes the rollouts, and the cheetah amplifies it.
    torch.testing.assert_close(weights(model), weights(eager), rtol=1e-4, atol=2e-5)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["gradient_step"]["kind"] == "compiled"
    model.close()
    said = capsys.readouterr().err
    assert "once for these settings on this machine" in said
    assert "compiled in " in said


@needs_compiler
@pytest.mark.parametrize("algo", ["on-policy", "off-policy"])
def test_compiled_run_resumes_bit_for_bit(compile_cache, tmp_path, algo):
    settings = {"gradient_step": "compiled", "algo": algo, "seed": 3, "total_steps": 6 * ITERATION, **SMALL}
    whole = R2VPO("HalfCheetah-v5", **settings).learn()
    first = R2VPO("HalfCheetah-v5", run_dir=tmp_path / "parts", **settings)
    first.learn(callback=StopAfter(3))
    first.close()
    second = R2VPO.resume(tmp_path / "parts")
    assert second.num_timesteps == 3 * ITERATION
    second.learn()
    second.close()
    assert torch.equal(weights(whole), weights(second))
    assert whole.learner.updater.dual.lam == second.learner.updater.dual.lam


@needs_compiler
def test_first_compiled_step_sees_ratio_one_up_to_rounding(compile_cache, monkeypatch):
    model = R2VPO("HalfCheetah-v5", algo="on-policy", gradient_step="compiled", **SMALL)
    updater, seen = model.learner.updater, []
    original = updater.step

    def step(micro_batches, count):
        taken = original(micro_batches, count)
        seen.append((len(updater.log.grad_norms), updater.log.samples[-1].log_ratio))
        return taken

    monkeypatch.setattr(updater, "step", step)
    model.learn(3 * ITERATION)
    firsts = torch.cat([log_ratio for position, log_ratio in seen if position == 1])
    assert len(firsts) == 3 * 30
    # The stored log-prob, of size 10, came from the eager code; the last bit of a sum of that size is 1e-6.
    assert firsts.abs().max() < 1e-5
    later = torch.cat([log_ratio for position, log_ratio in seen if position > 1])
    assert later.abs().max() > 1e-3


def test_without_a_compiler_auto_is_eager_and_compiled_is_refused(monkeypatch):
    monkeypatch.setattr(training, "PAYS_AFTER", 1)
    monkeypatch.setattr(training, "obstacle", lambda: "there is no C++ compiler")
    model = R2VPO("Pendulum-v1", **SMALL).learn(ITERATION)
    assert (model.gradient_step.kind, model.gradient_step.reason) == ("eager", "there is no C++ compiler")
    with pytest.raises(ConfigError, match=r"gradient_step='compiled'.*no C\+\+ compiler"):
        R2VPO("Pendulum-v1", gradient_step="compiled", **SMALL).learn(ITERATION)


def test_unknown_kind_of_step_is_refused_before_any_work():
    with pytest.raises(ConfigError, match=r"gradient_step='fused'.*auto, eager, compiled"):
        R2VPO("Pendulum-v1", gradient_step="fused")


def test_evaluations_while_training_leave_it_as_it_is(tmp_path):
    def metrics(path, **settings):
        model = R2VPO("Pendulum-v1", run_dir=path, total_steps=4 * ITERATION, **SMALL, **settings)
        model.learn(callback=StopAfter(3)).close()
        resumed = R2VPO.resume(path).learn()
        score = resumed.evaluate(10).mean
        resumed.close()
        return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()], score

    plain, _ = metrics(tmp_path / "plain")
    evaluated, score = metrics(tmp_path / "evaluated", eval_every=2 * ITERATION)
    for name in ("step", "ratio_variance", "entropy", "return"):
        assert [line[name] for line in plain] == [line[name] for line in evaluated], name
    scores = {line["step"]: line["eval_return_mean"] for line in evaluated if "eval_return_mean" in line}
    assert list(scores) == [2 * ITERATION, 4 * ITERATION]
    assert scores[4 * ITERATION] == score


def test_an_evaluation_on_the_way_that_fails_ends_nothing(tmp_path, monkeypatch):
    settings = {"run_dir": tmp_path / "run", "total_steps": 2 * ITERATION, "eval_every": ITERATION, **SMALL}
    model = R2VPO("Pendulum-v1", **settings)
    monkeypatch.setattr(model, "evaluate", lambda *_, **__: 1 / 0)
    with pytest.warns(UserWarning, match=r"no evaluation at step .*: ZeroDivisionError: .*; training goes on"):
        model.learn()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert not any("eval_return_mean" in line for line in lines)
