"""The moving picture of the README: a trained policy beside its return against wall-clock seconds.

r2vpo control train --env HalfCheetah-v5 --total-steps 400000 --seed 0 --run-dir runs/cheetah-picture
python scripts/readme_picture.py --run runs/cheetah-picture
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import imageio.v2 as imageio
import matplotlib.pyplot as plt
import numpy as np
import tyro
from PIL import Image

from r2vpo.control import R2VPO
from r2vpo.control.pictures import record_video

EVERY = 2
"""Frames of the film for each one of the picture."""
DOTS = 100
"""Dots per inch; the picture is 6.4 x 2.2 inches."""


@dataclass(frozen=True)
class Arguments:
    """Film a finished run and put its curve beside the film."""

    run: Path
    """Run directory."""
    out: Path = Path("docs/pictures/cheetah.gif")
    """File to write, below 2 MB."""
    frames: int = 80
    """Frames of the picture."""
    start: int = 40
    """Steps of the film to leave out, in which the body only falls into its gait."""


def main() -> None:
    """Film, draw, write."""
    arguments = tyro.cli(Arguments, description=__doc__)
    lines = [json.loads(line) for line in (arguments.run / "metrics.jsonl").read_text().splitlines()]
    seconds, returns = np.array([(line["time"], line["return"]) for line in lines if line["return"] is not None]).T
    pictures = [
        Image.fromarray(picture).quantize(96, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        for picture in compose(film(arguments), seconds, returns)
    ]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    pictures[0].save(arguments.out, save_all=True, append_images=pictures[1:], duration=80, loop=0, optimize=True)
    print(f"{arguments.out}: {len(pictures)} frames, {arguments.out.stat().st_size / 1e6:.2f} MB")


def film(arguments: Arguments) -> list[np.ndarray]:
    """Frames ``[H, W, 3]`` of the trained policy, less the sky."""
    model = R2VPO.load(arguments.run)
    with tempfile.TemporaryDirectory() as folder:
        path, steps = Path(folder) / "film.mp4", arguments.start + EVERY * arguments.frames
        record_video(
            model.act(deterministic=True), model.config.env, path, model.config.seed, steps, size=288, fps=None
        )
        frames = imageio.mimread(path, memtest=False)[arguments.start :: EVERY]
        return [frame[len(frame) // 3 :] for frame in frames]


def compose(frames: list[np.ndarray], seconds: np.ndarray, returns: np.ndarray) -> list[np.ndarray]:
    """Each frame beside the curve, with a mark that moves along it once."""
    figure = plt.figure(figsize=(6.4, 2.2), dpi=DOTS)
    left, right = figure.add_axes((0.01, 0.0, 0.46, 1.0)), figure.add_axes((0.6, 0.24, 0.38, 0.68))
    left.axis("off")
    image = left.imshow(frames[0])
    right.plot(seconds, returns, color="0.8")
    (line,) = right.plot([], [], color="tab:blue")
    (mark,) = right.plot([], [], "o", color="tab:blue")
    right.set(xlabel="seconds of training", ylabel="return", xlim=(0, None))
    right.spines[["top", "right"]].set_visible(False)
    pictures = []
    for i, frame in enumerate(frames):
        reached = max(1, round((i + 1) / len(frames) * len(seconds)))
        image.set_data(frame)
        line.set_data(seconds[:reached], returns[:reached])
        mark.set_data(seconds[reached - 1 : reached], returns[reached - 1 : reached])
        figure.canvas.draw()
        pictures.append(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
    plt.close(figure)
    return pictures


if __name__ == "__main__":
    main()
