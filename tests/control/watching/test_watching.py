"""Watching an agent: films that last the episode and replace nothing, windows, other environments."""

import json

import gymnasium as gym
import numpy as np
import pytest
from small_envs import IdentityEnv

from r2vpo.cli import main
from r2vpo.control import R2VPO
from r2vpo.errors import ConfigError

imageio = pytest.importorskip("imageio.v3")
SMALL = {"num_envs": 2, "rollout_steps": 16, "minibatch_size": 16, "eval_episodes": 0}


class Filmed(IdentityEnv):
    """Ten steps of a twentieth of a second; each frame is as bright as the episode is old, in the chosen colour."""

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 20}  # noqa: RUF012
    shown = 0

    def __init__(self, render_mode="rgb_array", colour=0):
        super().__init__()
        self.render_mode, self.colour = render_mode, colour

    def step(self, action):
        Filmed.shown += self.render_mode == "human"
        return super().step(action)

    def render(self):
        frame = np.zeros((32, 32, 3), np.uint8)
        frame[..., self.colour] = 20 * self.steps + 20
        return frame


class Larger(Filmed):
    observation_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    for name, kind in (("Filmed-v0", Filmed), ("Larger-v0", Larger)):
        gym.register(f"watching/{name}", kind, max_episode_steps=8)
    run_dir = tmp_path_factory.mktemp("watching") / "run"
    R2VPO("watching/Filmed-v0", **SMALL, run_dir=run_dir, eval_every=32).learn(64)
    yield run_dir
    for name in ("Filmed-v0", "Larger-v0"):
        del gym.registry[f"watching/{name}"]


def frames(path):
    return imageio.imread(path), imageio.immeta(path)["fps"]


def test_a_film_lasts_as_long_as_the_episode_at_thirty_frames_a_second(run, tmp_path):
    watched = R2VPO.load(run).watch(tmp_path / "film.mp4")
    film, fps = frames(watched.film)
    assert (watched.length, fps) == (8, 30)
    assert len(film) == 11  # the last of eight steps begins after 0.35 s, and the eleventh frame is due at 0.33 s
    assert np.isfinite(watched.episode_return)
    brightness = film[..., 0].mean(axis=(1, 2))
    assert (np.diff(brightness) > -3).all()
    assert brightness[-1] - brightness[0] == pytest.approx(140, abs=15)


def test_no_film_replaces_another(run, tmp_path):
    model = R2VPO.load(run)
    names = [model.watch(tmp_path / "film", max_episode_steps=2).film.name for _ in range(3)]
    assert names == ["film.mp4", "film-2.mp4", "film-3.mp4"]


def test_enjoy_films_beside_the_run_and_says_what_came_of_it(run, tmp_path, capsys):
    words = ["control", "enjoy", str(run), "--quiet", "--episodes", "2", "--json", str(tmp_path / "e.json")]
    assert main([*words, "--env-kwargs", "colour", "2", "--stochastic", "--best"]) == 0
    said = capsys.readouterr().out.splitlines()
    rows = json.loads((tmp_path / "e.json").read_text())["episodes"]
    assert [row["film"] for row in rows] == [str(run / "video.mp4"), str(run / "video-2.mp4")]
    assert said == [f"return {row['return']:.1f} in 8 steps  {row['film']}" for row in rows]
    film, _ = frames(run / "video.mp4")
    assert film[-1, ..., 2].mean() > 100 > film[-1, ..., 0].mean()


def test_a_window_needs_no_film(run, tmp_path, capsys):
    before = Filmed.shown
    assert main(["control", "enjoy", str(run), "--render", "human", "--quiet", "--out", str(tmp_path / "x.mp4")]) == 0
    assert capsys.readouterr().out.endswith("in 8 steps\n")
    assert Filmed.shown == before + 8
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--env", "watching/Larger-v0"], "env='watching/Larger-v0' is not allowed"),
        (["--env", "Nowhere-v0"], "env='Nowhere-v0' is not allowed"),
        (["--max-episode-steps", "0"], "max_episode_steps=0 is not allowed"),
    ],
)
def test_what_cannot_be_watched_is_said_and_leaves_no_film(run, tmp_path, capsys, words, said):
    assert main(["control", "enjoy", str(run), "--quiet", "--out", str(tmp_path / "x.mp4"), *words]) == 1
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_agents_of_functions_and_objects_are_watched_in_what_is_given(tmp_path):
    model = R2VPO(Filmed, **SMALL)
    with pytest.raises(ConfigError, match=r"env='Filmed' is not allowed.*render_mode='rgb_array'"):
        model.watch(tmp_path / "x.mp4")
    env = Filmed()
    assert model.watch(tmp_path / "x.mp4", env=env, max_episode_steps=3).length == 3
    assert model.watch(tmp_path / "x.mp4", env=Filmed).film.name == "x-2.mp4"
    with pytest.raises(ConfigError, match="renders images"):
        model.watch(tmp_path / "y.mp4", env=lambda: IdentityEnv())
    assert not (tmp_path / "y.mp4").exists()
    with pytest.raises(ConfigError, match="made with render_mode='human'"):
        model.watch(env=env, render="human")


def test_the_best_model_of_the_evaluations_is_kept(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = max(lines, key=lambda line: line["eval_return_mean"])
    assert R2VPO.load(run / "checkpoints" / "best.zip").num_timesteps == best["step"]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["best"] == {name: best[name] for name in ("step", "eval_return_mean")}
