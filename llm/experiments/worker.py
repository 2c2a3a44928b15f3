"""One run of a comparison of methods, in a process of its own."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from r2vpo.runs.study import Line, die_with_parent, say

CURVES = "curves"
"""Folder of the kept runs."""


@dataclass(frozen=True)
class Job:
    """What identifies one run."""

    method: str
    seed: int
    model: str
    dataset: str
    total_rollouts: int
    settings: dict[str, Any] = field(default_factory=dict)
    """Further settings, over those of the method and the preset."""
    label: str | None = None
    """Name of the row in tables; the method's when not given."""
    keep: bool = False
    """Keep what the figures read, in :data:`CURVES` beside the folder for runs. No part of the key."""

    @property
    def key(self) -> str:
        """Two lines with the same key are the same experiment."""
        return json.dumps([self.name, self.seed, self.model, self.dataset, self.total_rollouts, self.settings])

    @property
    def name(self) -> str:
        """Row in tables."""
        return self.label or self.method


def main(arguments: list[str]) -> int:
    """Arguments: the job as JSON, and the folder for runs."""
    die_with_parent()
    job = Job(**json.loads(arguments[0]))
    say({"result": run(job, Path(arguments[1]))})
    return 0


def run(job: Job, folder: Path) -> Line:
    """Train, or go on training after a kill, and describe the run."""
    from r2vpo.llm.trainer import R2VPOTrainer
    from r2vpo.runs.directory import CONFIG, read_metrics
    from r2vpo.runs.provenance import machine_description, source_commit

    run_dir = folder / f"{job.name}-{job.total_rollouts}-{abs(hash_text(job.key)):08x}-seed{job.seed}"
    if (run_dir / CONFIG).exists():
        trainer = R2VPOTrainer.resume(run_dir, callbacks=[_progress])
    else:
        settings = {"torch_threads": 1, "checkpoint_seconds": 60.0, **job.settings}
        identity = {"method": job.method, "seed": job.seed, "total_rollouts": job.total_rollouts}
        trainer = R2VPOTrainer(
            job.model, train_dataset=job.dataset, run_dir=run_dir, callbacks=[_progress], **identity, **settings
        )
    summary = trainer.train(progress_bar=False)
    metrics = read_metrics(run_dir)
    evaluated = [line for line in metrics if line.get("accuracy_greedy") is not None]
    line = {
        **asdict(job),
        "label": job.name,
        "accuracy_greedy": summary["accuracy_greedy"],
        "pass_at_1": summary["pass_at_1"],
        "first_accuracy_greedy": summary["first_accuracy_greedy"],
        "steps": [entry["step"] for entry in evaluated],
        "accuracies": [entry["accuracy_greedy"] for entry in evaluated],
        "rewards": [entry["reward"] for entry in metrics],
        "ratio_variances": [entry.get("ratio_variance") for entry in metrics],
        "lams": [entry["lam"] for entry in metrics],
        "entropies": [entry["entropy"] for entry in metrics],
        "wall_seconds": summary["train_seconds"],
        "samples_per_second": summary["samples_per_second"],
        "config": asdict(trainer.config),
        "versions": summary["versions"],
        "machine": machine_description(),
        "commit": source_commit(),
    }
    trainer.close()
    if job.keep:
        keep_curves(run_dir, folder.parent / CURVES / f"{job.name}-seed{job.seed}")
    # Everything a study needs of a run is in its line; a hundred copies of a model are not.
    shutil.rmtree(run_dir)
    return line


def keep_curves(run_dir: Path, destination: Path) -> None:
    """Copy what ``r2vpo plot`` reads: configuration, metrics, and the tokens of Figure 2."""
    from r2vpo.llm.run import TOKENS
    from r2vpo.runs.directory import CONFIG, METRICS

    destination.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, METRICS, TOKENS):
        shutil.copyfile(run_dir / name, destination / name)


def hash_text(text: str) -> int:
    """A short number for a text, the same in every process."""
    import zlib

    return zlib.crc32(text.encode())


def _progress(trainer: Any, metrics: dict[str, Any]) -> None:
    say({"step": trainer.rollouts})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
