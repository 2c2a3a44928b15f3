"""Where the numbers of a run go, under which names: metrics.jsonl, TensorBoard, and the trackers, each the real one."""

import json

import numpy as np
import pytest

from r2vpo.errors import ConfigError
from r2vpo.runs.directory import RunDirectory, read_metrics
from r2vpo.runs.logger import Logger, grouped
from r2vpo.runs.trackers import TRACKING

SETTINGS = {"env": "Hopper-v5", "seed": 0, "delta": None, "hidden_sizes": (64, 64)}
LINES = [{"step": 100 * i, "time": 0.5 * i, "return": 1.0 * i, "lam": 1.0, "note": "text"} for i in (1, 2, 3)]


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def log(run_dir, lines, track=(), settings=SETTINGS):
    """Write these iterations, as a new run or going on with the one that is there."""
    new = not run_dir.exists()
    with RunDirectory(run_dir, settings if new else None) as directory:
        logger = Logger()
        with logger.opened(directory, track, settings, lines[0]["step"] - 100):
            for line in lines:
                logger.record("mine/x", np.float32(2.0))
                logger.iteration(line)


def events(run_dir):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(run_dir))
    found.Reload()
    return found


def test_names_with_a_group_are_those_of_stable_baselines():
    wanted = {
        "return": "rollout/ep_rew_mean",
        "episode_length": "rollout/ep_len_mean",
        "steps_per_second": "time/fps",
        "learning_rate": "train/learning_rate",
        "kl": "train/approx_kl",
        "clip_fraction": "train/clip_fraction",
        "eval_return_mean": "eval/mean_reward",
        "eval_length_mean": "eval/mean_ep_length",
        "eval_return_std": "eval/return_std",
        "update_seconds": "time/update_seconds",
        "mine/x": "mine/x",
    }
    assert {name: grouped(name) for name in wanted} == wanted


def test_files_keep_our_names_and_tensorboard_has_groups(run_dir):
    log(run_dir, LINES)
    assert read_metrics(run_dir) == [{"mine/x": 2.0, **line} for line in LINES]
    board = events(run_dir)
    assert [(e.step, e.value) for e in board.Scalars("rollout/ep_rew_mean")] == [(100, 1), (200, 2), (300, 3)]
    assert {"train/lam", "time/time_elapsed", "mine/x"} <= set(board.Tags()["scalars"])
    assert "_hparams_/session_start_info" in board.summary_metadata


def test_what_a_killed_run_wrote_beyond_its_checkpoint_is_dropped(run_dir):
    log(run_dir, LINES)
    log(run_dir, [{**LINES[1], "return": 7.0}])
    assert [(e.step, e.value) for e in events(run_dir).Scalars("rollout/ep_rew_mean")] == [(100, 1), (200, 7)]


def test_a_dump_is_in_tensorboard_at_once_and_in_the_file_with_the_next_line(run_dir):
    with RunDirectory(run_dir, SETTINGS) as directory:
        logger = Logger()
        with logger.opened(directory, (), SETTINGS, 0):
            logger.record("eval/mean_reward", 5.0)
            logger.record("mine/text", "words", exclude="json")
            logger.dump(50)
            logger.iteration(LINES[0])
            logger.record("eval/mean_reward", 6.0)  # after the last line, which gets it
    assert read_metrics(run_dir) == [{"eval_return_mean": 5.0, **LINES[0]}]  # which has one already
    assert [(e.step, e.value) for e in events(run_dir).Scalars("eval/mean_reward")] == [(50, 5), (100, 6)]


def test_figures_and_hyperparameters_of_stable_baselines(run_dir):
    theirs = pytest.importorskip("stable_baselines3.common.logger")
    from matplotlib.figure import Figure

    with RunDirectory(run_dir, SETTINGS) as directory:
        logger = Logger()
        with logger.opened(directory, (), SETTINGS, 0):
            logger.record("mine/figure", theirs.Figure(Figure(figsize=(1, 1)), close=False))
            logger.record("mine/image", theirs.Image(np.zeros((4, 4, 3), np.uint8), "HWC"))
            logger.record("mine/hparams", theirs.HParam({"a": 1}, {"rollout/ep_rew_mean": 0.0}))
            logger.iteration(LINES[0])
    assert set(events(run_dir).Tags()["images"]) == {"mine/figure", "mine/image"}
    assert read_metrics(run_dir) == LINES[:1]


def test_weights_and_biases_offline(run_dir, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    log(run_dir, LINES[:2], ["wandb"])
    wandb.teardown()  # as at the end of a process: its service writes behind
    (file,) = (run_dir / "wandb").glob("offline-run-*/run-*.wandb")
    held = file.read_bytes()  # records as `wandb sync` uploads them
    assert held.count(b"rollout/ep_rew_mean") >= 2
    assert all(word in held for word in (b"global_step", b"Hopper-v5", b"mine/x"))
    known = json.loads((run_dir / TRACKING).read_text())["wandb"]
    assert file.name == f"run-{known}.wandb"
    log(run_dir, LINES[2:], ["wandb"])
    assert {path.name for path in (run_dir / "wandb").glob("offline-run-*/run-*.wandb")} == {file.name}


def test_mlflow_in_a_local_store(run_dir, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")  # a store of files is quickest to make
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    log(run_dir, LINES[:2], ["mlflow"])
    log(run_dir, LINES[2:], ["mlflow"])
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("r2vpo").experiment_id])
    points = client.get_metric_history(run.info.run_id, "rollout/ep_rew_mean")
    assert [(point.step, point.value) for point in points] == [(100, 1.0), (200, 2.0), (300, 3.0)]
    assert (run.info.run_name, run.info.status, run.data.params["env"]) == ("run", "FINISHED", "Hopper-v5")


def test_trackio_in_a_local_store(run_dir, tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    from trackio import utils
    from trackio.sqlite_storage import SQLiteStorage

    monkeypatch.setattr(utils, "TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "trackio")
    log(run_dir, LINES[:2], ["trackio"])
    log(run_dir, LINES[2:], ["trackio"])
    (name,) = SQLiteStorage.get_runs("r2vpo")
    rows = SQLiteStorage.get_logs("r2vpo", name)
    assert [(row["step"], row["rollout/ep_rew_mean"]) for row in rows] == [(100, 1.0), (200, 2.0), (300, 3.0)]


def test_a_service_that_is_not_installed_or_does_not_start_is_named_before_any_work(run_dir, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"track='wandb' is not allowed: .* pip install wandb"):
        log(run_dir, LINES, ["wandb"])
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "unknown://place")
    with pytest.raises(ConfigError, match="track='mlflow' is not allowed"):
        log(run_dir, LINES, ["mlflow"])


def test_a_service_that_fails_in_the_middle_ends_no_run(run_dir, monkeypatch):
    class Fails:
        name = "fails"

        def write(self, numbers, step):
            if step == 200:
                raise ConnectionError("gone")

        def close(self, failed):
            raise AssertionError("it was let go")

    monkeypatch.setattr("r2vpo.runs.trackers.start", lambda *_: Fails())
    with pytest.warns(UserWarning, match="fails tracks no more: ConnectionError: gone"):
        log(run_dir, LINES, ["fails"])
    assert read_metrics(run_dir) == [{"mine/x": 2.0, **line} for line in LINES]
