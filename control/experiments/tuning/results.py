"""What a search found: the best settings of each method as a file, a table, and pictures."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState

from r2vpo.control.experiments.tuning.options import TuneCommand
from r2vpo.control.experiments.tuning.space import Dimension
from r2vpo.control.presets import VARIANTS
from r2vpo.errors import R2VPOError
from r2vpo.runs.checkpoint import write_text_atomically
from r2vpo.runs.plotting import save_figure
from r2vpo.runs.provenance import provenance

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

RESULTS = "tuning.json"


def write_results(
    command: TuneCommand, studies: dict[str, optuna.Study], fixed: dict[str, Any], space: list[Dimension]
) -> dict[str, Any]:
    """Write best-METHOD.yaml, tuning.json and the pictures.

    Returns:
        What tuning.json holds.

    Raises:
        R2VPOError: No trial of a method came to a score.
    """
    methods = {algo: _method(command, algo, study, fixed) for algo, study in studies.items()}
    budget = {
        name: getattr(command, name) for name in ("env", "trials", "total_steps", "seeds", "first_seed", "episodes")
    }
    how = {"sampler": command.sampler, "pruner": command.pruner, "space": [d.name for d in space]}
    results = {"budget": budget, **how, "methods": methods, **provenance()}
    write_text_atomically(command.out / RESULTS, json.dumps(results, indent=1))
    for algo, study in studies.items():
        _draw(study, algo, command.out)
    return results


def print_table(results: dict[str, Any], out: Path) -> None:
    """A row a method, and where everything is."""
    for algo, found in results["methods"].items():
        ended = f", {found['pruned']} ended early" if found["pruned"] else ""
        print(f"{algo:<14}{found['best']:.1f} best of {found['trials']} trials{ended}, {found['steps']:,} steps")
        print(f"{'':<14}r2vpo control train --config {found['config']}")
    for path in sorted(out.iterdir()):
        if path.suffix in (".png", ".json"):
            print(path)


def _method(command: TuneCommand, algo: str, study: optuna.Study, fixed: dict[str, Any]) -> dict[str, Any]:
    import yaml

    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    scored = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not scored:
        said = "; ".join(sorted({trial.user_attrs.get("ended", "") for trial in trials}))
        raise R2VPOError(f"no trial of {algo} in {command.out} came to a score: {said}")
    best = max(scored, key=_score)
    chosen = {name: _plain(value) for name, value in best.params.items()}
    path = command.out / f"best-{algo}.yaml"
    budget = f"{len(trials)} trials of {command.total_steps:,} steps on {command.seeds} seeds from {command.first_seed}"
    head = f"# {algo} on {command.env}: {_score(best):.1f}, the best of {budget}.\n"
    settings = {"env": command.env, **VARIANTS[algo], **fixed, **chosen}
    write_text_atomically(path, head + yaml.safe_dump(settings, sort_keys=False))
    return {
        "best": _score(best),
        "settings": chosen,
        "config": str(path),
        "trials": len(trials),
        "pruned": len(trials) - len(scored),
        "steps": sum(trial.user_attrs.get("steps", 0) for trial in trials),
        "scores": [trial.value for trial in trials],
    }


def _score(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def _plain(value: Any) -> Any:
    """Choices are kept as texts in JSON."""
    return json.loads(value) if isinstance(value, str) else value


def _draw(study: optuna.Study, algo: str, out: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as pictures

    many = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) > 2
    kinds: dict[str, Any] = {"history": pictures.plot_optimization_history, "settings": pictures.plot_slice}
    if many:
        kinds["importance"] = lambda study: pictures.plot_param_importances(
            study, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        for kind, draw in kinds.items():
            axes = draw(study)
            figure = (axes.flat[0] if hasattr(axes, "flat") else axes).figure
            figure.set_size_inches(max(6.4, 2.6 * len(figure.axes)), 4.8)  # a panel for each setting
            save_figure(figure, out / f"{kind}-{algo}.png")
            pyplot.close(figure)
