"""Ends a run whose rewards never come: nothing can be learned from completions that nobody judges."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

from r2vpo.errors import NoVerdicts

SILENT_ITERATIONS = 3
"""Iterations in a row without a single verdict after which a run ends."""

_log = logging.getLogger(__name__)


def unjudged(missing: Mapping[str, int], completions: int, errors: Mapping[str, str]) -> str:
    """Which reward functions had no verdict on how many of some completions, and what they raised, in words."""
    return "; ".join(
        f"reward {name!r} had no verdict on {number} of {completions} completions"
        + (f", at last it raised {errors[name]}" if name in errors else "")
        for name, number in missing.items()
        if number
    )


class VerdictWatch:
    """Counts, iteration by iteration, what each function failed to judge, since the last verdict."""

    def __init__(self) -> None:
        self.ever = False
        """Whether the run has had a verdict."""
        self.silent = 0
        """Iterations in a row without a verdict."""
        self._judged = 0
        self._reset()

    def add(self, judged: int, completions: int, missing: Mapping[str, int], errors: Mapping[str, str]) -> None:
        """Note some completions.

        Args:
            judged: Completions that every function with a weight had a verdict on.
            completions: How many there were.
            missing: Items without a verdict, by function; given once for each call of the functions.
            errors: Text of the exception of each function that raised.
        """
        self._judged += judged
        self._calls += bool(missing)
        self._completions += completions
        self._missing.update(missing)
        self._raised.update(errors.keys())
        self._errors.update(errors)

    def end_iteration(self) -> None:
        """Close the iteration; one without verdicts is warned about.

        Raises:
            NoVerdicts: So many in a row had none.
        """
        if self._judged:
            self.ever, self.silent, self._judged = True, 0, 0
            self._reset()
            return
        self.silent += 1
        if self.silent >= SILENT_ITERATIONS:
            raise self._error()
        _log.warning("%s", self._story())

    def end_run(self) -> None:
        """Raise NoVerdicts where a run is at its end and has never had a verdict."""
        if not self.ever:
            raise self._error()

    def _error(self) -> NoVerdicts:
        return NoVerdicts(
            f"{self._story()}. There is nothing to learn from and no model is saved; the run can be resumed with a "
            "reward that judges."
        )

    def _reset(self) -> None:
        self._calls = self._completions = 0
        self._missing: Counter[str] = Counter()
        self._raised: Counter[str] = Counter()
        self._errors: dict[str, str] = {}

    def _story(self) -> str:
        lines = [
            f"reward {name!r} raised in {self._raised[name]} of {self._calls} calls, at last {self._errors[name]}"
            if name in self._errors
            else f"reward {name!r} had no verdict on {missing} of {self._completions} completions"
            for name, missing in self._missing.items()
            if missing
        ]
        what = ": " + "; ".join(lines) if lines else ""
        return f"no completion of the last {self.silent} iterations had a reward{what}"
