"""A reward whose verdicts come from worker processes, each within a limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from r2vpo.errors import ConfigError, RewardError
from r2vpo.llm.rewards.verifier.pool import DEFAULT_MEMORY_BYTES, VerifierPool


class PooledReward:
    """Base of the rewards of :data:`r2vpo.llm.rewards.verifier.checks.CHECKS`.

    None, never 0, where a check hit its time limit, ran out of memory, raised, or lost its process.

    Args:
        workers: Processes. They start with the first call and end with :meth:`close`, or with this process.
        timeout_seconds: Wall-clock limit of one verdict.
        memory_bytes: Address space of one worker.
        max_characters: Only so much of the end of a completion is read, since answers stand at the end and some
            patterns take time that grows with the square of the length.

    Raises:
        ConfigError: A value outside its range.
        RewardError: The package of that name is not installed.
    """

    __name__: str
    """Of the reward, of its check, and of the package behind it."""

    def __init__(
        self,
        workers: int = 2,
        timeout_seconds: float = 5.0,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        max_characters: int = 20_000,
    ) -> None:
        if max_characters < 1:
            raise ConfigError("max_characters", max_characters, "at least 1")
        if find_spec(self.__name__) is None:
            package = self.__name__.replace("_", "-")
            raise RewardError(f"the reward {self.__name__} needs a package: pip install {package}")
        self.pool = VerifierPool(workers, timeout_seconds, memory_bytes, checks=(self.__name__,))
        self.max_characters = max_characters
        self.reasons: Counter[str] = Counter()
        """Kinds of reasons for which items had no verdict, with their counts, over all calls."""

    def judge(self, items: Sequence[Mapping[str, Any]]) -> list[float | None]:
        """Verdicts of the check on items, its keyword arguments."""
        verdicts = self.pool.run(self.__name__, items)
        self.reasons.update(verdict.kind for verdict in verdicts if verdict.value is None)
        return [verdict.value for verdict in verdicts]

    def close(self) -> None:
        """End the worker processes."""
        self.pool.close()
