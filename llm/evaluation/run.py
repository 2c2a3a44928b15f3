"""Evaluation of a language model on one benchmark: problems answered, answers verified, every completion kept."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from r2vpo.errors import RunDirectoryError
from r2vpo.llm.data.files import Row
from r2vpo.llm.data.prompts import row_tokens
from r2vpo.llm.engines.base import Completion, RolloutEngine, Sampling
from r2vpo.llm.evaluation.completions import ERRORS, CompletionsFile, Line
from r2vpo.llm.evaluation.protocol import EvaluationProtocol
from r2vpo.llm.evaluation.tally import EvaluationResult, Tally
from r2vpo.llm.rewards.calling import RewardFunction, function_name
from r2vpo.llm.rewards.scoring import RewardBatch, score_rows
from r2vpo.llm.rewards.watch import SILENT_ITERATIONS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Reward = RewardFunction | Sequence[tuple[str, RewardFunction]]
"""One reward function, or named ones whose results are added up."""


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
    on_progress: Callable[[int, Tally], None] | None = None,
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
        on_progress: Called after each batch with the problems answered and the counts so far.

    Raises:
        RunDirectoryError: ``output`` holds completions of other settings or problems.
        ConfigError: A row without a prompt, or one that does not fit the model's context.
        RewardError: A reward function returned something unusable. What it did not judge is in ``output``, and judged
            when this is called again.
        NoVerdicts: Nothing was judged at all; the message says which function did what.
    """
    if output is None:
        at_once, shown = completions_at_once, on_progress
        with tempfile.TemporaryDirectory() as folder:
            output, arguments = Path(folder) / "completions.jsonl", (engine, tokenizer, rows, reward, protocol)
            return evaluate(*arguments, output=output, completions_at_once=at_once, on_progress=shown)
    answerer = _Answerer(engine, tokenizer, reward, protocol)
    settings = completion_settings(protocol, identity or {}, [name for name, _ in answerer.functions])
    tally = Tally(protocol)
    with CompletionsFile(output, settings, protocol.answers) as file:
        done = _count_answered(file, rows, protocol, tally)
        if any(tally.unjudged(group) for group in file.groups()):
            _judge_again(file, rows, answerer, tally)
            tally = Tally(protocol)
            done = _count_answered(file, rows, protocol, tally)
        missing = [i for i in range(len(rows)) if i not in done]
        size = max(1, completions_at_once // protocol.answers)
        for start in range(0, len(missing), size):
            groups = answerer.answer(rows, missing[start : start + size])
            try:
                answerer.judge(rows, groups)
            finally:  # whatever the rewards do, what was generated is kept
                file.append(groups)
            for group in groups:
                tally.add(group)
            if on_progress is not None:
                on_progress(len(tally.verdicts), tally)
            if start + size >= SILENT_ITERATIONS * size:
                tally.require_verdicts()
    tally.require_verdicts()
    return tally.result()


def completion_settings(protocol: EvaluationProtocol, identity: dict[str, Any], rewards: list[str]) -> dict[str, Any]:
    """What completions and verdicts depend on; k and the bar for a solved problem are applied afterwards."""
    values = asdict(protocol)
    del values["k"], values["solved_above"]
    return {**values, "reward": rewards, **identity}


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


def _judge_again(file: CompletionsFile, rows: Sequence[Row], answerer: _Answerer, tally: Tally) -> None:
    """Verify the completions in the file that rewards raised at, or all of them where none has a verdict."""
    groups = list(file.groups())
    again = [group for group in groups if group[0]["index"] < len(rows) and tally.unjudged(group)]
    try:
        answerer.judge(rows, again)
    finally:
        file.replace(groups)


class _Answerer:
    """Generates and verifies the answers to a batch of problems."""

    def __init__(
        self, engine: RolloutEngine, tokenizer: PreTrainedTokenizerBase, reward: Reward, protocol: EvaluationProtocol
    ) -> None:
        self.engine, self.tokenizer, self.protocol = engine, tokenizer, protocol
        named = [(function_name(reward), reward)] if callable(reward) else reward
        self.functions: list[tuple[str, RewardFunction]] = list(named)
        self._tokens: dict[tuple[int, int], list[int]] = {}

    def answer(self, rows: Sequence[Row], indices: Sequence[int]) -> list[list[Line]]:
        """The lines of each of the problems ``rows[i]``, sampled answers first, the greedy one last; not judged yet."""
        chosen, answers = [rows[i] for i in indices], self.protocol.answers
        started = time.perf_counter()
        groups = self._generate(chosen, indices)
        seconds = (time.perf_counter() - started) / max(1, len(indices) * answers)
        self._tokens = {
            (index, j): completion.tokens.tolist()
            for index, group in zip(indices, groups, strict=True)
            for j, completion in enumerate(group)
        }
        return [
            [
                {
                    "index": index,
                    "id": _problem_id(row, index),
                    "prompt": row[self.protocol.prompt_column],
                    "answer": row.get("answer"),
                    "sample": j if j < self.protocol.samples else None,
                    "completion": self._text(completion),
                    "reward": None,
                    "verdicts": {name: None for name, _ in self.functions},
                    ERRORS: {name: "it was stopped before its end" for name, _ in self.functions},
                    "finished": completion.finished,
                    "tokens": len(completion.tokens),
                    "generate_seconds": seconds,
                    "verify_seconds": 0.0,
                }
                for j, completion in enumerate(group)
            ]
            for row, index, group in zip(chosen, indices, groups, strict=True)
        ]

    def judge(self, rows: Sequence[Row], groups: Sequence[Sequence[Line]]) -> None:
        """Write verdicts into lines, those of :meth:`answer` or of a file."""
        lines = [line for group in groups for line in group]
        if not lines:
            return
        started = time.perf_counter()
        places = [(group[0]["index"], j) for group in groups for j in range(len(group))]
        batch = score_rows(
            self.functions,
            [1.0] * len(self.functions),
            [rows[line["index"]] for line in lines],
            self.protocol.prompt_column,
            [line["completion"] for line in lines],
            # a file keeps the texts alone
            completion_ids=[self._tokens[place] for place in places] if self._tokens.keys() >= {*places} else None,
        )
        seconds = (time.perf_counter() - started) / len(lines)
        for position, line in enumerate(lines):
            line.update(_verdict(batch, position), verify_seconds=seconds)
            line.pop(ERRORS, None)
            if batch.errors:
                line[ERRORS] = batch.errors

    def _generate(self, rows: Sequence[Row], indices: Sequence[int]) -> list[list[Completion]]:
        protocol = self.protocol
        prompts = [row_tokens(row, self.tokenizer, protocol, index) for row, index in zip(rows, indices, strict=True)]
        groups: list[list[Completion]] = [[] for _ in rows]
        for size, temperature in ((protocol.samples, protocol.temperature), (int(protocol.greedy), 0.0)):
            if not size:
                continue
            sampling = Sampling(protocol.max_tokens, temperature, protocol.top_p if temperature else 1.0)
            seeds = [seed for index in indices for seed in answer_seeds(protocol.seed, index, size)]
            completions = self.engine.generate(prompts, size, sampling, seeds)
            for i, group in enumerate(groups):
                group += completions[i * size : (i + 1) * size]
        return groups

    def _text(self, completion: Completion) -> str:
        return str(self.tokenizer.decode(completion.tokens.tolist(), skip_special_tokens=True))


def answer_seeds(seed: int, index: int, count: int) -> list[int]:
    """Seeds of the answers to problem ``index``, each below 2^63; the first ones do not depend on ``count``."""
    return [int(word >> 1) for word in np.random.SeedSequence((seed, index)).generate_state(count, np.uint64).tolist()]


def _problem_id(row: Row, index: int) -> str:
    """Its own id, or its place in the benchmark."""
    return str(next((row[name] for name in ("id", "unique_id") if row.get(name) is not None), index))


def _verdict(batch: RewardBatch, position: int) -> Line:
    verdicts = {name: float(values[position]) for name, values in batch.by_function.items()}
    return {
        "reward": float(batch.total[position]) if batch.valid[position] else None,
        "verdicts": {name: None if math.isnan(value) else value for name, value in verdicts.items()},
    }
