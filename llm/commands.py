"""Arguments of ``r2vpo llm``. Needs no torch, so that ``--help`` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from r2vpo.llm.config import LLMConfig


@dataclass(frozen=True)
class TrainCommand(LLMConfig):
    """Fine-tune a language model. Without arguments: the tiny model on arithmetic, some minutes on a laptop."""

    run_dir: Path | None = None
    """Where everything is written; named after model, method, seed and time when not given."""
    resume: Path | None = None
    """Run directory to go on with, instead of starting a run. Its own settings hold; no others can be given."""
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
