"""``r2vpo control train | evaluate | enjoy | compare | study | tune | export``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from r2vpo.cli import parse_training
from r2vpo.control.config import ControlConfig
from r2vpo.control.presets import resolve_config
from r2vpo.errors import CheckpointError, ConfigError, R2VPOError

if TYPE_CHECKING:
    from r2vpo.control.algorithm import R2VPO
    from r2vpo.control.experiments.seeds import SeedStudy


@dataclass(frozen=True)
class TrainCommand:
    """Train an agent. The defaults shown are those of the --algo, --preset and --config given."""

    ADVANCED: ClassVar[tuple[str, ...]] = ("wrapper",)
    """Options that ``--help`` leaves out."""

    run_dir: Path | None = None
    """Where everything is written; named after task, algorithm, seed and time when not given."""
    resume: Path | None = None
    """Run directory to go on with, instead of starting a run. Its own settings hold; --total-steps extends it."""
    config: Path | None = None
    """YAML or JSON file of settings, the config.json of a run say; flags win over it."""
    wrapper: str = ""
    """module:Class of a wrapper around the environment, gymnasium.wrappers:FlattenObservation say, which makes one Box
    of a dictionary; several with commas between, the innermost first. It is kept in env_kwargs."""
    seeds: int = 1
    """Train this many seeds, --seed and those that follow it, each in a process of its own and as many at a time as
    there are cores; one directory with a run directory for each, their summary and their picture."""
    video: bool = False
    """Film the trained agent at the end."""
    quiet: bool = False
    """No live line."""
    json: Path | None = None
    """Also write the summary to this file."""


@dataclass(frozen=True)
class ResumeCommand:
    """Go on with a run that was stopped or killed, with the settings it had, or extend one that is finished."""

    resume: Path
    """The run directory."""
    total_steps: int | None = None
    """Extend the run until it has so many environment steps in all. The learning rate begins anew, and falls over the
    steps that are added."""
    video: bool = False
    """Film the trained agent at the end."""
    quiet: bool = False
    """No live line."""
    json: Path | None = None
    """Also write the summary to this file."""


@dataclass(frozen=True)
class EvaluateCommand:
    """Evaluate a trained agent."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory, or a file written by save()."""
    episodes: int = 20
    """Complete episodes, each in a fresh environment."""
    stochastic: bool = False
    """Sample actions instead of taking the mean."""
    seed: int | None = None
    """First reset seed; by default one derived from the training seed."""
    max_episode_steps: int | None = None
    """Steps at which an episode is cut; by default the environment's own time limit, and 2000 where it has none."""
    video: bool = False
    """Film one episode into video.mp4 beside the run, or video-2.mp4 and so on where there are films."""
    json: Path | None = None
    """Also write the result to this file."""


_USAGE = """usage: r2vpo control {train,evaluate,enjoy,compare,study,tune,export} ...

  train      train an agent: R²VPO on- or off-policy, or any objective of the core
  evaluate   evaluate a trained agent, and film it
  enjoy      watch a trained agent: a film, or a window
  compare    train several algorithms, ours and Stable-Baselines3's, and compare them
  study      tasks x algorithms x seeds as a list on disk that can be stopped, extended and gone on with
  tune       search for settings, equally long for each of several methods
  export     write the policy as one ONNX or TorchScript file that runs without this library
"""


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands."""
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": _train,
        "evaluate": _evaluate,
        "compare": _compare,
        "study": _study,
        "enjoy": lambda words: int(import_module("r2vpo.control.pictures.enjoy").main(words)),
        "tune": lambda words: int(import_module("r2vpo.control.experiments.tuning.command").main(words)),
        "export": lambda words: int(import_module("r2vpo.control.sharing.export").main(words)),
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0 if arguments else 2
    if arguments[0] not in commands:
        print(f"r2vpo control: no command {arguments[0]!r}; there are {', '.join(commands)}", file=sys.stderr)
        return 2
    return commands[arguments[0]](list(arguments[1:]))


def _train(arguments: list[str]) -> int:
    if any(word.split("=")[0] == "--resume" for word in arguments):
        return _resume(tyro.cli(ResumeCommand, args=arguments, prog="r2vpo control train"))
    command, settings = parse_training(
        TrainCommand,
        ControlConfig,
        resolve_config,
        ("env", "algo", "objective", "preset"),
        arguments,
        "r2vpo control train",
    )
    if command.wrapper:
        settings["env_kwargs"] = {**settings["env_kwargs"], "wrapper": command.wrapper}
    run_dir = command.run_dir or _default_run_dir(settings, command.seeds)
    if command.seeds != 1:
        from r2vpo.control.experiments.seeds import SeedStudy

        return _run_seeds(SeedStudy.create(run_dir, settings, command.seeds), command)
    from r2vpo.control.algorithm import R2VPO

    model = R2VPO(**settings, run_dir=run_dir)
    return _run(model, command)


def _resume(command: ResumeCommand) -> int:
    from r2vpo.control.experiments.seeds import SEEDS

    if (command.resume / SEEDS).is_file():
        from r2vpo.control.experiments.seeds import SeedStudy

        if command.total_steps is not None:
            raise ConfigError("total_steps", command.total_steps, "left out: extend the run of each seed by itself")
        return _run_seeds(SeedStudy.open(command.resume), command)
    from r2vpo.control.algorithm import R2VPO

    model = R2VPO.resume(command.resume)
    end, done = command.total_steps, model.num_timesteps
    if end is None or end == model.schedule_start + model.config.total_steps:
        return _run(model, command)
    if end <= done:
        model.close()
        raise ConfigError("total_steps", end, f"above {done:,}, the steps that {command.resume} has")
    return _run(model, command, end - done)


def _run(model: R2VPO, command: TrainCommand | ResumeCommand, more_steps: int | None = None) -> int:
    """Train to the end, or so many steps beyond where the run is, and say where everything is."""
    assert model.run is not None
    path = model.run.path
    config = model.config
    steps = config.total_steps if more_steps is None else model.num_timesteps + more_steps
    print(
        f"{config.objective} {config.algo} on {config.env}: {steps:,} steps, seed {config.seed}, "
        f"{config.num_envs} environments ({model.engine}) -> {path}"
    )
    try:
        model.learn(more_steps, progress_bar=not command.quiet, reset_num_timesteps=False)
        film = _film(model, path) if command.video else None
    except KeyboardInterrupt:
        print(f"\nstopped at step {model.num_timesteps:,}; go on with: r2vpo control train --resume {path}")
        return 130
    except R2VPOError:
        print(f"to go on from the last checkpoint: r2vpo control train --resume {path}", file=sys.stderr)
        raise
    finally:
        model.close()
    _report(path, command.json, film)
    return 0


def _run_seeds(study: SeedStudy, command: TrainCommand | ResumeCommand) -> int:
    """Train every seed to the end and say where everything is."""
    from r2vpo.control.algorithm import R2VPO
    from r2vpo.control.experiments.seeds import best_run, print_report

    print(study.description, flush=True)
    try:
        study.train(quiet=command.quiet)
    except KeyboardInterrupt:
        print(
            f"\nstopped with {len(study.finished)} of {study.count} seeds finished and the others saved; "
            f"go on with: r2vpo control train --resume {study.path}"
        )
        return 130
    except R2VPOError:
        print(f"to go on with what is missing: r2vpo control train --resume {study.path}", file=sys.stderr)
        raise
    if command.video:
        _film(R2VPO.load(best_run(study.run_dirs)), study.path)
    print_report(study.path, study.run_dirs, command.json)
    return 0


def _report(path: Path, json_copy: Path | None, film: Path | None) -> None:
    from r2vpo.runs.directory import CHECKPOINT, CURVE, SUMMARY

    text = (path / SUMMARY).read_text()
    summary = json.loads(text)
    if json_copy is not None:
        json_copy.write_text(text)
    if "eval_return_mean" in summary:
        print(
            f"evaluation  {summary['eval_return_mean']:.1f} ± {summary['eval_return_std']:.1f} over "
            f"{summary['eval_episodes']} episodes (sampling actions: {summary['eval_return_mean_stochastic']:.1f})"
        )
    steps = f"gradient steps {summary['gradient_step']['kind']}"
    print(f"trained     {summary['train_seconds']:.0f} s, {summary['steps_per_second']:,.0f} steps/s, {steps}")
    for name, reason in summary.get("missing", {}).items():
        print(f"no {name}: {reason}", file=sys.stderr)
    for name, file in (("summary", SUMMARY), ("curve", CURVE), ("video", film and film.name), ("model", CHECKPOINT)):
        if file is not None and (path / file).exists():
            print(f"{name:<12}{path / file}")


def _film(model: R2VPO, folder: Path) -> Path | None:
    """Film the agent into a file of its own: no other film is replaced. None, and the reason, where that fails."""
    from r2vpo.control.pictures.watching import FILM, watch

    try:
        return watch(model, folder / FILM).film
    except Exception as error:
        # Rendering depends on drivers that a machine may lack; the trained agent is safe on disk by now.
        print(f"no video: {type(error).__name__}: {error}", file=sys.stderr)
        return None


def _evaluate(arguments: list[str]) -> int:
    command = tyro.cli(EvaluateCommand, args=arguments, prog="r2vpo control evaluate")
    from r2vpo.control.algorithm import R2VPO
    from r2vpo.runs.provenance import package_versions

    if not command.run.exists():
        raise CheckpointError(f"no run or model at {command.run}")
    model = R2VPO.load(command.run)
    started = time.perf_counter()
    result = model.evaluate(command.episodes, not command.stochastic, command.seed, command.max_episode_steps)
    document = {
        "env": model.config.env,
        "trained_steps": model.num_timesteps,
        "deterministic": not command.stochastic,
        "eval_return_mean": result.mean,
        "eval_return_std": result.std,
        "eval_returns": result.returns,
        "eval_lengths": result.lengths,
        "eval_episodes_cut": result.cut,
        "eval_episodes": command.episodes,
        "versions": package_versions(),
    }
    print(
        f"{model.config.env}: {result.mean:.1f} ± {result.std:.1f} over {command.episodes} episodes "
        f"(min {min(result.returns):.1f}, max {max(result.returns):.1f}), {time.perf_counter() - started:.1f} s"
    )
    if command.json is not None:
        command.json.write_text(json.dumps(document, indent=2))
    if command.video:
        film = _film(model, command.run if command.run.is_dir() else command.run.parent)
        if film is not None:
            print(film)
    return 0


def _compare(arguments: list[str]) -> int:
    from r2vpo.control.experiments.commands import CompareCommand

    command = tyro.cli(CompareCommand, args=arguments, prog="r2vpo control compare")
    from r2vpo.control.experiments.study import compare

    compare(command)
    return 0


def _study(arguments: list[str]) -> int:
    from r2vpo.control.experiments.commands import StudyCommand, StudyResumeCommand

    command: StudyCommand | StudyResumeCommand
    if any(word.split("=")[0] == "--resume" for word in arguments):
        command = tyro.cli(StudyResumeCommand, args=arguments, prog="r2vpo control study")
    else:
        command = tyro.cli(StudyCommand, args=arguments, prog="r2vpo control study")
    from r2vpo.control.experiments.study import study

    out = command.out if isinstance(command, StudyCommand) else command.resume
    try:
        study(command)
    except KeyboardInterrupt:
        print(f"\nstopped; go on with: r2vpo control study --resume {out}")
        return 130
    return 0


def _default_run_dir(settings: dict[str, Any], seeds: int) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    env = settings["env"].replace("/", "-")
    first = settings["seed"]
    seed = f"seed{first}" if seeds == 1 else f"seeds{first}-{first + seeds - 1}"
    return Path("runs") / f"{env}-{settings['objective']}-{settings['algo']}-{seed}-{stamp}"
