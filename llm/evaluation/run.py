"""Evaluation of a language model on one benchmark, with every completion kept."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2vpo.errors import RunDirectoryError
from r2vpo.llm.engines.base import RolloutEngine
from r2vpo.llm.evaluation.answering import Answerer, Reward, Row
from r2vpo.llm.evaluation.completions import CompletionsFile
from r2vpo.llm.evaluation.protocol import EvaluationProtocol
from r2vpo.llm.evaluation.tally import EvaluationResult, Tally

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class EvaluationProgress:
    """What is known while an evaluation runs."""

    problems: int
    """Problems answered."""
    total: int
    pass_rate: float | None
    """Fraction of the answers with a verdict that solve their problem: of the sampled ones where there are any."""
    tokens_per_second: float | None


def evaluate(
    engine: RolloutEngine,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    reward: Reward,
    protocol: EvaluationProtocol,
    *,
    output: str | Path | None = None,
    identity: dict[str, Any] | None = None,
    completions_at_once: int = 256,
    on_progress: Callable[[EvaluationProgress], None] | None = None,
) -> EvaluationResult:
    """Answer every problem and count.

    Called again with the same ``output`` after being stopped, it answers only the problems that are missing, and the
    answers are those that an evaluation in one go would have given.

    Args:
        engine: Generates.
        tokenizer: Of its model.
        rows: Problems: a prompt column, and the columns that the reward reads.
        reward: One function of TRL's signature, or named ones that are added up. None as a verdict excludes the
            completion; it is counted, and never a 0.
        protocol: Sampling and counting.
        output: JSONL file that receives every completion as it comes; see :mod:`r2vpo.llm.evaluation.completions`.
        identity: What else the completions depend on, such as the model's name; kept in the file and compared.
        completions_at_once: Completions handed to the engine together, about; the file grows by as many.
        on_progress: Called after each batch.

    Raises:
        RunDirectoryError: ``output`` holds completions of other settings or problems.
        ConfigError: A row without a prompt, or one that does not fit the model's context.
    """
    if output is None:
        with tempfile.TemporaryDirectory() as folder:
            return evaluate(
                engine,
                tokenizer,
                rows,
                reward,
                protocol,
                output=Path(folder) / "completions.jsonl",
                completions_at_once=completions_at_once,
                on_progress=on_progress,
            )
    answerer = Answerer(engine, tokenizer, reward, protocol)
    settings = completion_settings(protocol, identity or {}, [name for name, _ in answerer.functions])
    tally = Tally(protocol)
    with CompletionsFile(output, settings, protocol.answers) as file:
        done = _count_answered(file, rows, protocol, tally)
        missing = [i for i in range(len(rows)) if i not in done]
        size = max(1, completions_at_once // protocol.answers)
        for start in range(0, len(missing), size):
            groups = answerer.answer(rows, missing[start : start + size])
            file.append(groups)
            for group in groups:
                tally.add(group)
            if on_progress is not None:
                answered = len(tally.verdicts)
                on_progress(EvaluationProgress(answered, len(rows), tally.pass_rate, tally.tokens_per_second))
    return tally.result()


def completion_settings(protocol: EvaluationProtocol, identity: dict[str, Any], rewards: list[str]) -> dict[str, Any]:
    """What completions and verdicts depend on; k and the bar for a solved problem are applied afterwards."""
    values = asdict(protocol)
    return {name: value for name, value in values.items() if name not in ("k", "solved_above")} | {
        "reward": rewards,
        **identity,
    }


def _count_answered(file: CompletionsFile, rows: Sequence[Row], protocol: EvaluationProtocol, tally: Tally) -> set[int]:
    """Count the problems in the file; problems beyond ``rows`` (another limit) are left aside."""
    done = set()
    for group in file.groups():
        index = group[0]["index"]
        if index >= len(rows):
            continue
        if group[0]["prompt"] != rows[index].get(protocol.prompt_column):
            raise RunDirectoryError(
                f"{file.path} holds answers to other problems: the prompt of problem {index} differs; "
                "choose another folder, or delete it"
            )
        done.add(index)
        tally.add(group)
    return done
