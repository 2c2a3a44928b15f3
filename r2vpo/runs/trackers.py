"""Services that track runs: Weights & Biases, MLflow and trackio, each a package of its own that loads when asked for.

They are set up by their own environment variables: ``WANDB_MODE=offline``, ``WANDB_PROJECT``, ``MLFLOW_TRACKING_URI``,
``MLFLOW_EXPERIMENT_NAME``, ``TRACKIO_PROJECT``, ``TRACKIO_SPACE_ID`` and so on. Where none names a project it is
``r2vpo``; a run is called like its directory, and a resumed run goes on where it was.
"""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from r2vpo.errors import ConfigError
from r2vpo.runs.checkpoint import write_text_atomically
from r2vpo.runs.directory import RunDirectory

TRACKING = "tracking.json"
"""By service, what it calls this run."""
PROJECT = "r2vpo"


class Tracker(ABC):
    """A run at a service, open.

    Args:
        name: Of the run, for people.
        settings: Plain values by name.
        folder: The run directory; None leaves the place of local files to the service.
        known: What the service called this run before; None for a new one.
    """

    name: ClassVar[str]
    id: str
    """What the service calls this run."""

    @abstractmethod
    def __init__(self, name: str, settings: Mapping[str, Any], folder: Path | None, known: str | None) -> None: ...

    @abstractmethod
    def write(self, numbers: Mapping[str, float], step: int) -> None:
        """Send numbers by name."""

    @abstractmethod
    def close(self, failed: bool) -> None:
        """Say how it ended, and let go of it."""


class Wandb(Tracker):
    """Weights & Biases; local files go into the run directory."""

    name = "wandb"

    def __init__(self, name: str, settings: Mapping[str, Any], folder: Path | None, known: str | None) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", name),
            config=dict(settings),
            dir=folder,
            id=known,
            resume="allow" if known else None,
            reinit="create_new",
            settings=wandb.Settings(silent=True),
        )
        self._run.define_metric("global_step")
        self._run.define_metric("*", step_metric="global_step")
        self.id = self._run.id

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        """One row of its history."""
        # Not its own step, which may never fall: a run that was killed goes on from before its last rows.
        self._run.log({"global_step": step, **numbers})

    def close(self, failed: bool) -> None:
        """Finish the run."""
        self._run.finish(exit_code=int(failed))


class MLflow(Tracker):
    """MLflow: a local store in the current folder, or the server that ``MLFLOW_TRACKING_URI`` names."""

    name = "mlflow"

    def __init__(self, name: str, settings: Mapping[str, Any], folder: Path | None, known: str | None) -> None:
        import mlflow
        from mlflow.entities import Metric

        self._client, self._metric = mlflow.MlflowClient(), Metric
        if known is not None:
            self._client.update_run(known, status="RUNNING")
            self.id = known
            return
        project = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(project)
        place = self._client.create_experiment(project) if experiment is None else experiment.experiment_id
        self.id = self._client.create_run(place, run_name=name).info.run_id
        for key, value in settings.items():
            self._client.log_param(self.id, key, value)

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        """All of them in one request."""
        now = int(time.time() * 1000)
        self._client.log_batch(self.id, [self._metric(key, float(v), now, step) for key, v in numbers.items()])

    def close(self, failed: bool) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self.id, "FAILED" if failed else "FINISHED")


class Trackio(Tracker):
    """trackio: a local dashboard (``trackio show``), or a Space."""

    name = "trackio"

    def __init__(self, name: str, settings: Mapping[str, Any], folder: Path | None, known: str | None) -> None:
        import trackio

        self.id = known or f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        options: dict[str, Any] = {"resume": "allow", "embed": False, "auto_log_cpu": False}
        self._run = trackio.init(project, name=self.id, config=dict(settings), **options)

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        """One row of its table."""
        self._run.log(dict(numbers), step=step)

    def close(self, failed: bool) -> None:
        """Wait until everything is stored."""
        self._run.finish()


TRACKERS: dict[str, type[Tracker]] = {kind.name: kind for kind in (Wandb, MLflow, Trackio)}
"""By the name that the setting ``track`` has for it."""
PACKAGES = {"wandb": "wandb", "mlflow": "mlflow-skinny sqlalchemy alembic", "trackio": "trackio"}


def start(service: str, directory: RunDirectory | None, settings: Mapping[str, Any]) -> Tracker:
    """Begin a run at a service, or go on with the one that the run directory names.

    Args:
        service: A key of :data:`TRACKERS`.
        directory: Of the run.
        settings: Of the run.

    Raises:
        ConfigError: Its package is not installed, or the service refuses.
    """
    folder = None if directory is None else directory.path
    name = str(settings.get("env") or settings.get("model") or PROJECT) if folder is None else folder.resolve().name
    file = None if folder is None else folder / TRACKING
    known: dict[str, str] = json.loads(file.read_text()) if file is not None and file.exists() else {}
    try:
        tracker = TRACKERS[service](name, settings, folder, known.get(service))
    except ModuleNotFoundError as error:
        raise ConfigError("track", service, f"installed: pip install {PACKAGES[service]} ({error})") from error
    except Exception as error:  # of the network, of an account that is missing, of a server
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError("track", service, f"a service that starts here; it says {reason}") from error
    if file is not None:
        write_text_atomically(file, json.dumps({**known, service: tracker.id}))
    return tracker
