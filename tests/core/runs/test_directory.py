"""A run directory that cannot be written says so, and gives its lock back."""

from pathlib import Path

import pytest

from r2vpo.errors import RunDirectoryError
from r2vpo.runs.directory import CHECKPOINT, METRICS, SUMMARY, RunDirectory

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="there is no device that is always full")
def test_a_full_disk_is_named_and_the_run_can_be_opened_again(tmp_path):
    with RunDirectory(tmp_path / "run", {"env": "x"}) as run:
        (run.path / METRICS).symlink_to(FULL)
        with pytest.raises(RunDirectoryError, match=f"{METRICS} cannot be written: No space left"):
            run.append_metrics({"step": 1})
    with RunDirectory(tmp_path / "run") as again:
        assert again.config() == {"env": "x"}


@pytest.mark.parametrize("name", [CHECKPOINT, SUMMARY], ids=str)
def test_a_file_that_cannot_be_replaced_is_named(tmp_path, name):
    with RunDirectory(tmp_path / "run", {"env": "x"}) as run:
        (run.path / name).mkdir(parents=True)
        with pytest.raises(RunDirectoryError, match=f"{name} cannot be written"):
            (run.save_checkpoint if name == CHECKPOINT else run.write_summary)({"step": 1})
