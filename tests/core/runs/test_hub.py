"""Runs are pushed to and pulled from a stand-in of the hub by the real library."""

import json

import pytest
import yaml
from hub_stand_in import Hub

from r2vpo import cli
from r2vpo.errors import ConfigError, R2VPOError, RunDirectoryError
from r2vpo.runs import hub as commands

pytest.importorskip("huggingface_hub")

TRAINED = {"algo": "off-policy", "objective": "r2vpo", "seed": 3, "versions": {"torch": "2"}}
SCORED = {"eval_return_mean": 10.0, "eval_return_std": 2.0, "eval_episodes": 5}
CONTROL = {**TRAINED, **SCORED, "env": "Hop-v0", "total_steps": 2048}
LLM = {**TRAINED, "model": "tiny", "dataset": "sums", "rollouts": 64, "accuracy_greedy": 0.5, "eval_problems": 100}


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_standin")
    with Hub() as running:
        yield running


def run_of(folder, summary, **files):
    contents = {"summary.json": json.dumps(summary), "config.json": json.dumps({"seed": summary["seed"]}), **files}
    for name, content in {**contents, "metrics.jsonl": "{}\n", "run.lock": ""}.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def test_a_control_run_comes_back_as_it_was_pushed(hub, tmp_path, capsys):
    run = run_of(tmp_path / "run", CONTROL, checkpoints__latest_zip="weights")
    (run / "checkpoints" / "latest_zip").rename(run / "checkpoints" / "latest.zip")
    (run / "video.mp4").write_bytes(b"film")
    assert cli.main(["hub", "push", str(run), "me/hopper", "--private", "--endpoint", hub.endpoint]) == 0
    assert capsys.readouterr().out.strip() == f"{hub.endpoint}/me/hopper"
    files = hub.repositories["me/hopper"]
    assert hub.private == {"me/hopper": True}
    assert set(files) == {
        *("README.md", "summary.json", "config.json", "metrics.jsonl", "checkpoints/latest.zip", "replay.mp4")
    }
    hub.repositories["me/hopper"]["evil.py"] = b"raise SystemExit"
    out = tmp_path / "pulled"
    assert cli.main(["hub", "pull", "me/hopper", "--out", str(out), "--endpoint", hub.endpoint]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    for name in ("summary.json", "config.json", "metrics.jsonl", "checkpoints/latest.zip"):
        assert (out / name).read_bytes() == (run / name).read_bytes()
    assert (out / "replay.mp4").read_bytes() == b"film"
    assert not (out / "evil.py").exists()
    with pytest.raises(RunDirectoryError, match="holds something already"):
        commands.pull("me/hopper", out, endpoint=hub.endpoint)


def test_the_weights_of_a_language_model_lie_where_they_are_looked_for(hub, tmp_path):
    run = run_of(tmp_path / "run", LLM, model__config_json='{"model_type": "qwen2"}', checkpoints__x="optimizer")
    (run / "model" / "config_json").rename(run / "model" / "config.json")
    (run / "model" / "model.safetensors").write_bytes(b"weights")
    commands.push(run, "me/sums", endpoint=hub.endpoint)
    files = hub.repositories["me/sums"]
    assert json.loads(files["config.json"]) == {"model_type": "qwen2"}
    assert set(files) == {
        *("README.md", "config.json", "model.safetensors", "run/config.json", "run/summary.json", "run/metrics.jsonl")
    }
    out = commands.pull("me/sums", tmp_path / "pulled", endpoint=hub.endpoint)
    assert (out / "config.json").read_bytes() == (run / "config.json").read_bytes()
    assert (out / "model" / "config.json").read_bytes() == (run / "model" / "config.json").read_bytes()
    assert (out / "model" / "model.safetensors").read_bytes() == b"weights"
    assert not (out / "model" / "run").exists()


def test_the_card_says_task_score_with_interval_command_and_versions(tmp_path):
    text = commands.card(run_of(tmp_path, CONTROL), "me/hopper")
    _, head, body = text.split("---\n", 2)
    found = yaml.safe_load(head)
    assert found["tags"] == ["reinforcement-learning", "r2vpo", "Hop-v0"]
    (result,) = found["model-index"][0]["results"]
    assert (result["dataset"]["name"], result["metrics"][0]["value"]) == ("Hop-v0", 10.0)
    # 1.96 * 2 / sqrt(5 - 1)
    assert "Mean return 10.0, 95 % interval [8.0, 12.0] over 5 episodes" in body
    for words in (
        "seed 3",
        "2,048 environment steps",
        "| torch | 2 |",
        "r2vpo control train --config",
        "hub pull me/hopper",
    ):
        assert words in body
    # 1.96 * sqrt(0.25 / 100)
    assert commands.score(LLM) == "Greedy accuracy 0.500, 95 % interval [0.402, 0.598] over 100 problems"
    assert commands.score({**CONTROL, "eval_return_mean": None}) is None
    assert "**The run was not evaluated.**" in commands.card(
        run_of(tmp_path, {**LLM, "accuracy_greedy": None}), "me/sums"
    )


def test_what_goes_wrong_is_said_in_a_line(hub, tmp_path, capsys, monkeypatch):
    with pytest.raises(RunDirectoryError, match="holds no finished run"):
        commands.push(tmp_path, "me/hopper", endpoint=hub.endpoint)
    run = run_of(tmp_path / "run", CONTROL)
    with pytest.raises(ConfigError, match="repository must be USER/NAME"):
        commands.push(run, "me/hopper/much", endpoint=hub.endpoint)
    with pytest.raises(R2VPOError, match="the hub: RepositoryNotFoundError"):
        commands.pull("me/nothing", tmp_path / "out", endpoint=hub.endpoint)
    hub.repositories["me/other"] = {"README.md": b"hello"}
    with pytest.raises(R2VPOError, match="me/other holds no run"):
        commands.pull("me/other", tmp_path / "out", endpoint=hub.endpoint)
    assert cli.main(["hub", "push", str(run), "me/hopper", "--endpoint", "http://127.0.0.1:9"]) == 1
    assert capsys.readouterr().err.startswith("r2vpo: the hub: ")
    assert cli.main(["hub", "steal"]) == 2
    monkeypatch.setattr(commands, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'r2vpo\[hub\]'"):
        commands.push(run, "me/hopper")
