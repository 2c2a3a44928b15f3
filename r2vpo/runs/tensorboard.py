"""Events for TensorBoard in a run directory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

COMPARED = ("rollout/ep_rew_mean", "eval/mean_reward", "rollout/reward", "eval/accuracy_greedy", "time/fps")
"""Scalars that the page of hyperparameters sets beside them."""


class TensorBoard:
    """Writes to one folder.

    Args:
        folder: Of the events.
        settings: Go to the page of hyperparameters.
        purge_step: What earlier events say from this step on does not count.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], purge_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: SummaryWriter = SummaryWriter(str(folder), purge_step=purge_step)
        self._hparams(settings, COMPARED)

    def write(self, values: Mapping[str, Any], step: int) -> None:
        """Numbers as scalars; texts and Stable-Baselines3's Figure, Image, Video and HParam as what they are."""
        for name, value in values.items():
            if isinstance(value, str):
                self._writer.add_text(name, value, step)
            elif hasattr(value, "hparam_dict"):
                self._hparams(value.hparam_dict, value.metric_dict)
            elif hasattr(value, "figure"):
                self._writer.add_figure(name, value.figure, step, close=value.close)
            elif hasattr(value, "dataformats"):
                self._writer.add_image(name, value.image, step, dataformats=value.dataformats)
            elif hasattr(value, "frames"):
                self._writer.add_video(name, value.frames, step, value.fps)
            elif math.isfinite(value):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()

    def _hparams(self, settings: Mapping[str, Any], compared: Mapping[str, Any] | tuple[str, ...]) -> None:
        from torch.utils.tensorboard.summary import hparams

        plain = {name: v if isinstance(v, bool | int | float | str) else str(v) for name, v in settings.items()}
        # Not add_hparams, which begins a folder of its own for them.
        for summary in hparams(plain, dict.fromkeys(compared, 0.0)):
            self._writer._get_file_writer().add_summary(summary)
