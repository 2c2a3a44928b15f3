"""How an evaluation asks and counts. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from r2vpo.errors import ConfigError
from r2vpo.llm.engines.base import Sampling
from r2vpo.validation import Count, Positive, Whole, check_fields


@dataclass(frozen=True)
class EvaluationProtocol:
    """How problems are answered and counted; defaults are those of arXiv 2601.03320, section 5.1.

    Raises:
        ConfigError: A value outside its range.
    """

    samples: Whole = 16
    """Sampled answers to each problem; 0 leaves them out."""
    k: tuple[int, ...] = (1, 8)
    """pass@k for these; each at most ``samples``."""
    temperature: Positive = 0.6
    """Of the sampled answers."""
    top_p: float = 0.95
    """Nucleus of the sampled answers."""
    max_tokens: Count = 1024
    """Completions are cut here."""
    greedy: bool = True
    """Also one answer at temperature 0."""
    seed: Whole = 0
    """An answer depends on this, its problem's place in the benchmark and its own number alone."""
    solved_above: float = 0.0
    """A problem is solved when its reward is above this: rewards are 1 / 0, or +1 / -1."""
    prompt_column: str = "prompt"
    """Column that holds the prompt: text, or chat messages."""
    prompt_template: str | None = None
    """Text around a plain prompt, with {prompt} in it."""
    system_prompt: str | None = None
    """First message of a chat."""

    def __post_init__(self) -> None:
        """Check every field."""
        check_fields(self, EvaluationProtocol)
        _check_k(self)
        if self.prompt_template is not None and "{prompt}" not in self.prompt_template:
            raise ConfigError("prompt_template", self.prompt_template, "a text with {prompt} in it, or None")
        Sampling(self.max_tokens, self.temperature, self.top_p)

    @property
    def answers(self) -> int:
        """Completions of each problem."""
        return self.samples + self.greedy


def _check_k(protocol: EvaluationProtocol) -> None:
    for k in protocol.k if protocol.samples else ():
        if not isinstance(k, int) or not 1 <= k <= protocol.samples:
            raise ConfigError("k", k, f"a whole number from 1 to samples={protocol.samples}")
    if not protocol.answers:
        raise ConfigError("samples", protocol.samples, "at least 1 when greedy answers are left out")
