"""One logger for every trainer: the numbers of an iteration go to metrics.jsonl, TensorBoard and trackers alike.

In metrics.jsonl a number has this library's name. Everywhere else it has a group in front, and the name that
Stable-Baselines3 has for it where it has one: :func:`grouped`.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from r2vpo.runs.directory import RunDirectory, writing
from r2vpo.runs.tensorboard import TensorBoard

if TYPE_CHECKING:
    from r2vpo.runs.trackers import Tracker

NAMES = {
    "step": "time/total_timesteps",
    "time": "time/time_elapsed",
    "steps_per_second": "time/fps",
    "samples_per_second": "time/samples_per_second",
    "episodes": "time/episodes",
    "return": "rollout/ep_rew_mean",
    "episode_length": "rollout/ep_len_mean",
    "kl": "train/approx_kl",
    "eval_return_mean": "eval/mean_reward",
    "eval_length_mean": "eval/mean_ep_length",
    **{
        name: f"rollout/{name}"
        for name in ("reward", "reward_std", "mixed_groups", "excluded", "completion_tokens_mean", "generated_tokens")
    },
    "truncated_fraction": "rollout/truncated_fraction",
    "accuracy_greedy": "eval/accuracy_greedy",
}
"""Names with a group for names in metrics.jsonl; what is missing follows :func:`grouped`."""

_OURS = {name: ours for ours, name in NAMES.items()}


def grouped(name: str) -> str:
    """The name outside metrics.jsonl: its group, a slash and a name; one that has a slash already is left as it is."""
    if "/" in name or name in NAMES:
        return NAMES.get(name, name)
    if name.startswith("eval_"):
        return "eval/" + name.removeprefix("eval_")
    return ("time/" if name.endswith("_seconds") else "train/") + name


class Logger:
    """Takes the metrics of each iteration, and what callbacks record between two of them.

    ``record``, ``record_mean``, ``dump``, ``log`` and ``dir`` are those of Stable-Baselines3's logger.
    """

    def __init__(self) -> None:
        self.name_to_value: dict[str, Any] = {}
        """Recorded since the last iteration."""
        self._counts: dict[str, int] = {}
        self._kept_from: dict[str, tuple[str, ...]] = {}
        self._line: dict[str, Any] = {}
        """Dumped, and not yet in metrics.jsonl."""
        self._last_step: int | None = None
        """Of an iteration since it was opened."""
        self._directory: RunDirectory | None = None
        self._tensorboard: TensorBoard | None = None
        self._trackers: list[Tracker] = []

    @property
    def dir(self) -> str | None:
        """The run directory."""
        return None if self._directory is None else str(self._directory.path)

    def get_dir(self) -> str | None:
        """The run directory."""
        return self.dir

    @contextmanager
    def opened(
        self, directory: RunDirectory | None, track: Sequence[str], settings: Mapping[str, Any], step: int
    ) -> Iterator[Logger]:
        """Write to all of these until the end of the block.

        Args:
            directory: Gets metrics.jsonl and events for TensorBoard; None writes neither.
            track: Names in :data:`r2vpo.runs.trackers.TRACKERS`.
            settings: Of the run; what is tracked beside its numbers.
            step: Where the run is. What TensorBoard has beyond is of a run that was killed, and is dropped.

        Raises:
            ConfigError: A tracker is not installed, or does not start.
            RunDirectoryError: The disk is full, say.
        """
        self._directory, self._last_step, failed = directory, None, True
        try:
            if directory is not None:
                with writing(directory.path):
                    self._tensorboard = TensorBoard(directory.path, settings, step + 1)
            if track:
                from r2vpo.runs.trackers import start

                self._trackers += (start(service, directory, settings) for service in track)
            yield self
            failed = False
        finally:
            self._close(failed)

    def record(self, key: str, value: Any, exclude: str | tuple[str, ...] | None = None) -> None:
        """Give a value to the next iteration, or to the next :meth:`dump`; of several the last counts.

        Args:
            key: With a group, ``mine/height``; or a name of metrics.jsonl.
            value: A number; TensorBoard alone takes texts and Stable-Baselines3's Figure, Image, Video and HParam.
            exclude: What does not get it, of ``json`` (metrics.jsonl), ``tensorboard``, ``wandb``, ...
        """
        self.name_to_value[key] = value
        self._kept_from[key] = (exclude,) if isinstance(exclude, str) else exclude or ()

    def record_mean(self, key: str, value: float | None, exclude: str | tuple[str, ...] | None = None) -> None:
        """As :meth:`record`, but of several values the mean counts."""
        if value is None:
            return
        count = self._counts.get(key, 0)
        mean = (self.name_to_value.get(key, 0.0) * count + value) / (count + 1)
        self.record(key, mean, exclude)
        self._counts[key] = count + 1

    def dump(self, step: int = 0) -> None:
        """Send what is recorded at once; metrics.jsonl has a line an iteration, and gets it with the next."""
        self._send(*self._taken(step))

    def iteration(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """An iteration's metrics, and whatever was recorded in it.

        Args:
            metrics: ``step`` is among them.

        Returns:
            The line of metrics.jsonl.

        Raises:
            RunDirectoryError: It cannot be written.
        """
        step = self._last_step = metrics["step"]
        recorded, _, kept_from = self._taken(step)
        line, self._line = {**self._line, **metrics}, {}
        if self._directory is not None:
            self._directory.append_metrics(line)
        self._send({**recorded, **_grouped_numbers(metrics)}, step, kept_from)
        return line

    def point(self, metrics: Mapping[str, Any]) -> None:
        """The numbers of these metrics, ``step`` among them, to everything but metrics.jsonl."""
        self._send(_grouped_numbers(metrics), metrics["step"], {})

    def pending(self) -> dict[str, Any]:
        """What is recorded and not yet in metrics.jsonl, under its names there."""
        return {**self._line, **{_OURS.get(key, key): value for key, value in self.name_to_value.items()}}

    def log(self, *args: Any, level: int = 20) -> None:
        """Print to standard error."""
        print(*args, file=sys.stderr, flush=True)

    debug = info = warn = error = log

    def _taken(self, step: int) -> tuple[dict[str, Any], int, dict[str, tuple[str, ...]]]:
        """What is recorded, under grouped names, the step, and what does not get it; then nothing is any more."""
        values, kept_from = self.name_to_value, {grouped(key): outputs for key, outputs in self._kept_from.items()}
        kept = {key: value for key, value in values.items() if "json" not in self._kept_from[key]}
        self._line |= {_OURS.get(key, key): plain for key, value in kept.items() for plain in _numbers(value)}
        self.name_to_value, self._kept_from, self._counts = {}, {}, {}
        return {grouped(key): value for key, value in values.items()}, step, kept_from

    def _send(self, values: Mapping[str, Any], step: int, kept_from: Mapping[str, tuple[str, ...]]) -> None:
        def allowed(output: str) -> dict[str, Any]:
            return {key: value for key, value in values.items() if output not in kept_from.get(key, ())}

        if self._tensorboard is not None and self._directory is not None:
            with writing(self._directory.path):
                self._tensorboard.write(allowed("tensorboard"), step)
        for tracker in list(self._trackers):
            numbers = {key: number for key, value in allowed(tracker.name).items() for number in _numbers(value)}
            with self._forgiving(tracker):
                tracker.write(numbers, step)

    @contextmanager
    def _forgiving(self, tracker: Tracker) -> Iterator[None]:
        """A service that fails in the middle of a run is left alone from then on, and the run goes on."""
        try:
            yield
        except Exception as error:
            self._trackers.remove(tracker)
            warnings.warn(f"{tracker.name} tracks no more: {type(error).__name__}: {error}", stacklevel=4)

    def _close(self, failed: bool) -> None:
        if self.name_to_value and self._last_step is not None:
            self.dump(self._last_step)
        line, self._line = self._line, {}
        if line and self._last_step is not None and self._directory is not None:
            self._directory.amend_metrics(line)
        for tracker in list(self._trackers):
            with self._forgiving(tracker):
                tracker.close(failed)
        self._trackers.clear()
        board, directory = self._tensorboard, self._directory
        self._tensorboard = None
        if board is not None and directory is not None:
            with writing(directory.path):
                board.close()


def _grouped_numbers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {grouped(name): number for name, value in metrics.items() for number in _numbers(value)}


def _numbers(value: Any) -> list[Any]:
    """The value as Python's number, if it is one that is finite; else nothing."""
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:
        value = value.item()
    return [value] if isinstance(value, int | float) and math.isfinite(value) else []
