"""Answers to a batch of problems, verified: what an evaluation writes down for each completion."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from r2vpo.llm.data.prompts import row_tokens
from r2vpo.llm.engines.base import Completion, RolloutEngine, Sampling
from r2vpo.llm.evaluation.completions import Line
from r2vpo.llm.evaluation.protocol import EvaluationProtocol
from r2vpo.llm.rewards.scoring import RewardBatch, RewardFunction, score_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = dict[str, Any]
Reward = RewardFunction | Sequence[tuple[str, RewardFunction]]
"""One reward function, or named ones whose results are added up."""


class Answerer:
    """Generates and verifies the answers of a :class:`~r2vpo.llm.evaluation.protocol.EvaluationProtocol`.

    Args:
        engine: Generates.
        tokenizer: Of its model.
        reward: Verifies.
        protocol: How.
    """

    def __init__(
        self, engine: RolloutEngine, tokenizer: PreTrainedTokenizerBase, reward: Reward, protocol: EvaluationProtocol
    ) -> None:
        self.engine, self.tokenizer, self.protocol = engine, tokenizer, protocol
        self.functions = named_functions(reward)

    def answer(self, rows: Sequence[Row], indices: Sequence[int]) -> list[list[Line]]:
        """The lines of each of the problems ``rows[i]``, sampled answers first, the greedy one last.

        Raises:
            ConfigError: A row without a prompt.
        """
        chosen = [rows[i] for i in indices]
        started = time.perf_counter()
        groups = self._generate(chosen, indices)
        generated = time.perf_counter()
        texts = [[self._text(completion) for completion in group] for group in groups]
        batch = self._score(chosen, [text for group in texts for text in group])
        count = max(1, len(indices) * self.protocol.answers)
        seconds = {
            "generate_seconds": (generated - started) / count,
            "verify_seconds": (time.perf_counter() - generated) / count,
        }
        answers = self.protocol.answers
        return [
            [
                _head(row, index, self.protocol)
                | {"sample": j if j < self.protocol.samples else None, "completion": texts[i][j]}
                | _verdict(batch, i * answers + j)
                | {"finished": groups[i][j].finished, "tokens": len(groups[i][j].tokens)}
                | seconds
                for j in range(answers)
            ]
            for i, (row, index) in enumerate(zip(chosen, indices, strict=True))
        ]

    def _generate(self, rows: Sequence[Row], indices: Sequence[int]) -> list[list[Completion]]:
        protocol = self.protocol
        prompts = [row_tokens(row, self.tokenizer, protocol) for row in rows]
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

    def _score(self, rows: Sequence[Row], texts: Sequence[str]) -> RewardBatch:
        repeated = [row for row in rows for _ in range(self.protocol.answers)]
        weights = [1.0] * len(self.functions)
        return score_rows(self.functions, weights, repeated, self.protocol.prompt_column, texts)


def named_functions(reward: Reward) -> list[tuple[str, RewardFunction]]:
    """A reward as named functions."""
    if callable(reward):
        return [(getattr(reward, "__name__", type(reward).__name__), reward)]
    return list(reward)


def answer_seeds(seed: int, index: int, count: int) -> list[int]:
    """Seeds of the answers to problem ``index``, each below 2^63; the first ones do not depend on ``count``."""
    return [int(word >> 1) for word in np.random.SeedSequence((seed, index)).generate_state(count, np.uint64).tolist()]


def problem_id(row: Row, index: int) -> str:
    """Name of a problem: its own id, or its place in the benchmark."""
    return str(next((row[name] for name in ("id", "unique_id") if row.get(name) is not None), index))


def _head(row: Row, index: int, protocol: EvaluationProtocol) -> Line:
    return {
        "index": index,
        "id": problem_id(row, index),
        "prompt": row[protocol.prompt_column],
        "answer": row.get("answer"),
    }


def _verdict(batch: RewardBatch, position: int) -> Line:
    verdicts = {name: float(values[position]) for name, values in batch.by_function.items()}
    return {
        "reward": float(batch.total[position]) if batch.valid[position] else None,
        "verdicts": {name: None if math.isnan(value) else value for name, value in verdicts.items()},
    }
