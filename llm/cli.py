"""``r2vpo llm train | evaluate | compare | study | chat``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from r2vpo.cli import parse_training
from r2vpo.errors import R2VPOError
from r2vpo.llm.config import LLMConfig, resolve_config

if TYPE_CHECKING:
    from r2vpo.llm.trainer import R2VPOTrainer


@dataclass(frozen=True)
class TrainCommand:
    """Fine-tune a language model. Without arguments: the tiny model on arithmetic, some minutes on a laptop."""

    run_dir: Path | None = None
    """Where everything is written; named after model, method, seed and time when not given."""
    resume: Path | None = None
    """Run directory to go on with, instead of starting a run. Its own settings hold; no others can be given."""
    config: Path | None = None
    """YAML or JSON file of settings, the config.json of a run say; flags win over it."""
    quiet: bool = False
    """No live line."""
    json: Path | None = None
    """Also write the summary to this file."""


@dataclass(frozen=True)
class ResumeCommand:
    """Go on with a run that was stopped or killed, with the settings it had."""

    resume: Path
    """The run directory."""
    quiet: bool = False
    """No live line."""
    json: Path | None = None
    """Also write the summary to this file."""


_USAGE = """usage: r2vpo llm {train,evaluate,compare,study,chat} ...

  train      fine-tune a language model: R²VPO on- or off-policy, GRPO, or any objective of the core
  evaluate   pass@1 and pass@k of a model on benchmarks
  compare    train several methods on the same problems and seeds, and compare them
  study      search every method's settings alike, then compare them at their best
  chat       talk to a trained model
"""


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands."""
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": _train,
        "evaluate": _evaluate,
        "compare": _compare,
        "study": _study,
        "chat": _chat,
    }
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0 if arguments else 2
    if arguments[0] not in commands:
        print(f"r2vpo llm: no command {arguments[0]!r}; there are {', '.join(commands)}", file=sys.stderr)
        return 2
    return commands[arguments[0]](list(arguments[1:]))


def _train(arguments: list[str]) -> int:
    if any(word.split("=")[0] == "--resume" for word in arguments):
        return _resume(tyro.cli(ResumeCommand, args=arguments, prog="r2vpo llm train"))
    command, settings = parse_training(
        TrainCommand, LLMConfig, resolve_config, ("model", "dataset", "method"), arguments, "r2vpo llm train"
    )
    run_dir = command.run_dir or _default_run_dir(settings)
    from r2vpo.llm.trainer import R2VPOTrainer

    return _run(R2VPOTrainer(config=LLMConfig(**settings), run_dir=run_dir), run_dir, command)


def _resume(command: ResumeCommand) -> int:
    from r2vpo.llm.trainer import R2VPOTrainer

    return _run(R2VPOTrainer.resume(command.resume), command.resume, command)


def _run(trainer: R2VPOTrainer, path: Path, command: TrainCommand | ResumeCommand) -> int:
    """Train to the end and say where everything is."""
    config, main_process = trainer.config, trainer.processes.is_main
    if main_process:
        print(
            f"{config.method} ({config.objective}, {config.algo}) trains {config.model} on {config.dataset}: "
            f"{config.total_rollouts:,} rollouts, seed {config.seed}, {trainer.engine_name} -> {path}"
        )
    try:
        summary = trainer.train(progress_bar=not command.quiet)
    except KeyboardInterrupt:
        if main_process:
            print(f"\nstopped at rollout {trainer.rollouts:,}; go on with: r2vpo llm train --resume {path}")
        return 130
    except R2VPOError:
        print(f"to go on from the last checkpoint: r2vpo llm train --resume {path}", file=sys.stderr)
        raise
    finally:
        trainer.close()
    if main_process:
        _report(summary, path, command.json)
    return 0


def _report(summary: dict[str, Any], path: Path, json_copy: Path | None) -> None:
    from r2vpo.llm.run import COMPLETIONS, MODEL
    from r2vpo.runs.directory import CURVE, SUMMARY

    if json_copy is not None:
        json_copy.write_text(json.dumps(summary, indent=2))
    if summary["accuracy_greedy"] is not None:
        before = summary["first_accuracy_greedy"]
        was = "" if before is None else f" (before training {before:.3f})"
        sampled = "" if summary["pass_at_1"] is None else f", pass@1 {summary['pass_at_1']:.3f}"
        print(
            f"accuracy    {summary['accuracy_greedy']:.3f}{was}{sampled}, {summary['eval_problems']} held-out problems"
        )
    for name, reason in summary.get("missing", {}).items():
        print(f"no {name}: {reason}; to try it again: r2vpo llm train --resume {path}")
    print(f"trained     {summary['train_seconds']:.0f} s, {summary['samples_per_second']:,.0f} rollouts/s")
    for name, file in (("summary", SUMMARY), ("curve", CURVE), ("answers", COMPLETIONS), ("model", MODEL)):
        if (path / file).exists():
            print(f"{name:<12}{path / file}")


def _evaluate(arguments: list[str]) -> int:
    from r2vpo.llm.evaluation.command import main as evaluate

    return evaluate(arguments)


def _compare(arguments: list[str]) -> int:
    from r2vpo.llm.experiments.compare import main as compare

    return compare(arguments)


def _study(arguments: list[str]) -> int:
    from r2vpo.llm.experiments.study import main as study

    return study(arguments)


def _chat(arguments: list[str]) -> int:
    from r2vpo.llm.evaluation.chat import main as chat

    return chat(arguments)


def _default_run_dir(settings: dict[str, Any]) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    model = Path(settings["model"]).name
    return Path("runs") / f"{model}-{settings['method']}-seed{settings['seed']}-{stamp}"
