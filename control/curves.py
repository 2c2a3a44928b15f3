"""Learning curves from the returns of finished training episodes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class EpisodeLog:
    """Environment step at which each training episode ended, and its undiscounted return."""

    steps: list[int] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)

    def add(self, step: int, episode_return: float) -> None:
        """Record one finished episode."""
        self.steps.append(int(step))
        self.returns.append(float(episode_return))

    def curve(self, total_steps: int, points: int = 50) -> tuple[list[int], list[float | None]]:
        """Mean return of the episodes that ended in each of ``points`` equal windows of steps.

        A window in which no episode ended repeats the one before; windows before the first episode hold
        ``None``. The grid depends on ``total_steps`` alone, so curves of different algorithms line up.
        """
        edges = np.linspace(0, total_steps, points + 1)
        window = np.clip(np.searchsorted(edges, self.steps, side="left") - 1, 0, points - 1)
        returns = np.asarray(self.returns)
        curve: list[float | None] = []
        for i in range(points):
            inside = returns[window == i] if len(returns) else returns
            curve.append(float(inside.mean()) if len(inside) else (curve[-1] if curve else None))
        return [int(edge) for edge in edges[1:]], curve
