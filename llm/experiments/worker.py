"""One run of a comparison of methods, in a process of its own."""

from __future__ import annotations

import json
import shutil
import sys
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from r2vpo.errors import R2VPOError
from r2vpo.runs.workers import Job as AnyJob
from r2vpo.runs.workers import Line, say, serve

CURVES = "curves"
"""Folder of the kept runs."""


@dataclass(frozen=True)
class Job(AnyJob):
    """One method on one seed."""

    worker = "r2vpo.llm.experiments.worker"
    unit = "rollouts"

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

    @classmethod
    def of_line(cls, line: Line) -> Job:
        """The job that a line is the result of."""
        names = ("method", "seed", "model", "dataset", "total_rollouts", "settings", "label")
        return cls(**{name: line[name] for name in names})

    @property
    def key(self) -> str:
        """Everything but whether the run is kept."""
        return json.dumps([self.name, self.seed, self.model, self.dataset, self.total_rollouts, self.settings])

    @property
    def name(self) -> str:
        """Row in tables."""
        return self.label or self.method

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.name}, seed {self.seed}"

    @property
    def size(self) -> int:
        """Rollouts."""
        return self.total_rollouts

    @property
    def folder(self) -> str:
        """Name of its run directory; the number is that of the key, the same in every process."""
        return f"{self.name}-{self.total_rollouts}-{zlib.crc32(self.key.encode()):08x}-seed{self.seed}"


def run(job: Job, folder: Path) -> Line:
    """Train, or go on training after a kill, and describe the run."""
    from r2vpo.llm.trainer import R2VPOTrainer
    from r2vpo.runs.directory import CONFIG, read_metrics
    from r2vpo.runs.provenance import machine_description, source_commit

    run_dir = folder / job.folder
    if (run_dir / CONFIG).exists():
        trainer = R2VPOTrainer.resume(run_dir, callbacks=[_progress])
    else:
        settings: dict[str, Any] = {"torch_threads": 1, "checkpoint_seconds": 60.0, **job.settings}
        settings |= {"method": job.method, "seed": job.seed, "total_rollouts": job.total_rollouts}
        trainer = R2VPOTrainer(job.model, train_dataset=job.dataset, run_dir=run_dir, callbacks=[_progress], **settings)
    summary = trainer.train(progress_bar=False)
    if "evaluation" in summary.get("missing", {}):
        trainer.close()
        raise R2VPOError(f"{job.title}: trained, but not evaluated: {summary['missing']['evaluation']}")
    metrics = read_metrics(run_dir)
    evaluated = [line for line in metrics if line.get("accuracy_greedy") is not None]
    line = {
        **asdict(job),
        "label": job.name,
        "accuracy_greedy": summary["accuracy_greedy"],
        "pass_at_1": summary["pass_at_1"],
        "first_accuracy_greedy": summary["first_accuracy_greedy"],
        "first_pass_at_1": summary["first_pass_at_1"],
        "steps": [entry["step"] for entry in evaluated],
        "accuracies": [entry["accuracy_greedy"] for entry in evaluated],
        "passes_at_1": [entry["pass_at_1"] for entry in evaluated if entry.get("pass_at_1") is not None],
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


def _progress(trainer: Any, metrics: dict[str, Any]) -> None:
    shown = {"reward": "reward", "accuracy": "accuracy_greedy"}
    known = {word: metrics[name] for word, name in shown.items() if metrics.get(name) is not None}
    say(trainer.rollouts, "training", known)


if __name__ == "__main__":
    sys.exit(serve(Job, run))
