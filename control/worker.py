"""One run of a comparison in a process of its own: progress and the result on standard output, a JSON line each."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from r2vpo.control.callbacks import BaseCallback
from r2vpo.control.jobs import Job, describe_run
from r2vpo.control.presets import VARIANTS, config_dict
from r2vpo.study import die_with_parent, say


def main(arguments: list[str]) -> int:
    """Arguments: the job as JSON, and the folder for our own runs."""
    import torch

    torch.set_num_threads(1)
    die_with_parent()
    job = Job(**json.loads(arguments[0]))
    line = run_ours(job, Path(arguments[1])) if job.algo in VARIANTS else run_peer(job)
    say({"result": line})
    return 0


def run_ours(job: Job, folder: Path) -> dict[str, Any]:
    """Train or go on training one of our variants in its own run directory, and describe it."""
    from r2vpo.control.algorithm import R2VPO
    from r2vpo.run_directory import CONFIG

    run_dir = folder / f"{job.algo}-{job.env.replace('/', '-')}-seed{job.seed}-{job.total_steps}"
    if (run_dir / CONFIG).exists():
        model = R2VPO.resume(run_dir)
    else:
        settings = {"total_steps": job.total_steps, "eval_episodes": 0, "env_threads": 1, **VARIANTS[job.algo]}
        model = R2VPO(job.env, seed=job.seed, run_dir=run_dir, **settings)
    model.learn(callback=_Progress())
    steps = model.num_timesteps
    line = describe_run(job, model.act, model.episodes, model.train_seconds, steps, config_dict(model.config))
    model.close()
    return line


def run_peer(job: Job) -> dict[str, Any]:
    """Train another library's algorithm, and describe it."""
    from r2vpo.control.peers import train_peer

    run = train_peer(job.algo, job.env, job.seed, job.total_steps, lambda step: say({"step": step}))
    return describe_run(job, run.act, run.episodes, run.train_seconds, job.total_steps, run.config)


class _Progress(BaseCallback):
    def _on_rollout_start(self) -> None:
        say({"step": self.model.num_timesteps})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
