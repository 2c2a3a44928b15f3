"""The ten tasks: a row each, from which they are registered with Gymnasium and listed in the documentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import gymnasium as gym


@dataclass(frozen=True)
class Task:
    """One row of the list."""

    id: str
    """Gymnasium id."""
    entry_point: str | None
    """Our class, ``module:class`` below this package; None for Gymnasium's own tasks, which it registers itself."""
    time_limit: int
    """Steps after which an episode is cut."""
    kind: Literal["dense", "sparse", "dynamic"]
    observations: int
    """Size of an observation."""
    actions: int
    """Size of an action."""
    reward: str
    """Of one step."""
    difficulty: str
    """What makes it hard."""
    success: str = ""
    """When an episode succeeds; empty where the task has no such notion."""


_PROGRESS = "forward speed, less control costs"
_HEALTHY = "forward speed and 1 for staying healthy, less control costs"
_BODY = "forward speed and a bonus for staying healthy, less control and contact costs"
_TO_THE_END = "still healthy when the time limit cuts the episode"

TASKS: tuple[Task, ...] = (
    Task("HalfCheetah-v5", None, 1000, "dense", 17, 6, _PROGRESS, "local optima: it can slide on its back"),
    Task("Hopper-v5", None, 1000, "dense", 11, 3, _HEALTHY, "falls end the episode"),
    Task("Walker2d-v5", None, 1000, "dense", 17, 6, _HEALTHY, "falls end the episode; two legs to coordinate"),
    Task("Ant-v5", None, 1000, "dense", 105, 8, _BODY, "three dimensions, contact forces in the observation"),
    Task("Humanoid-v5", None, 1000, "dense", 348, 17, _BODY, "many joints, and it falls at once"),
    Task(
        *("r2vpo/SparseHalfCheetah-v0", "sparse:SparseHalfCheetah", 1000, "sparse", 18, 6),
        reward="1 more than 5 m ahead of the start, else 0",
        difficulty="no reward before 5 m, and no cost of moving",
        success="more than 5 m ahead in the last step",
    ),
    Task(
        *("r2vpo/SparseReacher-v0", "sparse:SparseReacher", 50, "sparse", 10, 2),
        reward="1 while the fingertip is within 20 mm of the target, else 0",
        difficulty="the target is small and another one in each episode",
        success="within 20 mm in the last step",
    ),
    Task(
        *("r2vpo/SparseCartPoleSwingUp-v0", "cartpole:SparseCartPoleSwingUp", 500, "sparse", 5, 1),
        reward="1 while the pole is within 15° of upright and the cart within 1 m of the middle, else 0",
        difficulty="many swings before the first reward, then balance at high speed",
        success="upright in each of the last 100 steps",
    ),
    Task(
        *("r2vpo/HopperShift-v0", "shift:HopperShift", 1000, "dynamic", 11, 3),
        reward="as Hopper-v5",
        difficulty="mass, friction and gravity are drawn for each episode and hidden",
        success=_TO_THE_END,
    ),
    Task(
        *("r2vpo/Walker2dGust-v0", "gust:Walker2dGust", 1000, "dynamic", 17, 6),
        reward="as Walker2d-v5",
        difficulty="hidden pushes on the torso at random times",
        success=_TO_THE_END,
    ),
)


def register_tasks() -> None:
    """Make our ids known to Gymnasium; those that are known already stay as they are."""
    for task in TASKS:
        if task.entry_point is not None and task.id not in gym.registry:
            gym.register(task.id, f"r2vpo.envs.tasks.{task.entry_point}", max_episode_steps=task.time_limit)


def markdown_table() -> str:
    """The list as the Markdown table of the documentation."""
    head = ["id", "kind", "obs.", "act.", "reward of a step", "what makes it hard", "an episode succeeds if"]
    rows = [
        [f"`{t.id}`", t.kind, str(t.observations), str(t.actions), t.reward, t.difficulty, t.success or "(undefined)"]
        for t in TASKS
    ]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows])
