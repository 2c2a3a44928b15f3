"""Figures of language-model runs: which runs belong together, what is averaged, and errors that name the file."""

import json
from pathlib import Path

import numpy as np
import pytest

from r2vpo.cli import main
from r2vpo.errors import RunDirectoryError
from r2vpo.llm.experiments import curves as figures
from r2vpo.llm.experiments import figure2, figure3
from r2vpo.llm.experiments.figure2 import draw_figure2, read_tokens
from r2vpo.llm.experiments.figure3 import draw_figure3, mean_and_range
from r2vpo.llm.experiments.style import curve_of, group_runs, looks, smooth
from r2vpo.runs.plotting import PlottedRun, load_run

PNG = b"\x89PNG"


def write_run(folder, method="r2vpo-off", seed=0, iterations=60, speed=1.0, tokens=True, **config):
    """A run directory with metrics of plausible size and shape; nothing is trained."""
    folder.mkdir(parents=True)
    settings = {"kind": "llm", "method": method, "seed": seed, "model": "arithmetic", "dataset": "arithmetic"}
    (folder / "config.json").write_text(json.dumps(settings | {"lam": 0.04, "dual": "fixed", "delta": None} | config))
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(1, iterations + 1):
        progress = 1 - np.exp(-3 * speed * i / iterations)
        variance = 0.02 * (1 + progress) * np.exp(0.2 * rng.normal())
        line = {"step": 512 * i, "time": 3.0 * i, "reward": 0.45 + 0.45 * progress + 0.03 * rng.normal()}
        line |= {"ratio_variance": variance, "js": variance / 8.4, "kl": variance / 2.2, "lam": 0.04}
        line |= {"ess": 1 / (1 + variance), "entropy": 1.2 - 0.8 * progress, "max_ratio": 4.0}
        line |= {"generate_seconds": 1.4 - 0.3 * progress, "verify_seconds": 0.1}
        line |= {"train_seconds": 1.2 + 0.1 * rng.random(), "sync_seconds": 0.02}
        line |= {"ratio_variance_by_age": {str(age): variance * (0.3 + 0.5 * age) for age in range(4)}}
        line["accuracy_greedy"] = 0.5 + 0.42 * progress + 0.01 * rng.normal() if i % 10 == 0 else None
        lines.append(json.dumps(line) + "\n")
    (folder / "metrics.jsonl").write_text("".join(lines))
    if tokens:
        probability = rng.beta(0.9, 0.25, 5000).clip(1e-4, 1 - 1e-6)
        log_ratio = rng.normal(0, 0.02 + 0.5 * (1 - probability) ** 2)
        advantage = rng.choice([-1.3, 0.0, 0.8], 5000, p=[0.35, 0.2, 0.45])
        arrays = {"old_log_prob": np.log(probability), "log_ratio": log_ratio, "advantage": advantage}
        np.savez(folder / "tokens.npz", step=512 * iterations, **arrays)
    return folder


def plotted(path="run", **config):
    return PlottedRun(Path(path), config, [{"step": 1}])


def test_plot_of_several_runs_writes_the_three_figures_into_the_current_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runs = [
        write_run(tmp_path / f"{method}-{seed}", method, seed) for method in ("r2vpo-off", "grpo") for seed in (0, 1)
    ]
    assert main(["plot", *map(str, runs)]) == 0
    expected = ["curves.png", "curves-figure2.png", "curves-figure3.png"]
    assert capsys.readouterr().out.split() == expected
    assert all((tmp_path / name).read_bytes().startswith(PNG) for name in expected)
    assert not any((run / "curve.png").exists() for run in runs)


def test_output_can_be_a_picture_or_a_folder(tmp_path, monkeypatch, capsys):
    drawn = lambda runs, output: Path(output)  # noqa: E731
    for name in ("draw_curve", "draw_figure2", "draw_figure3"):
        monkeypatch.setattr(figures, name, drawn)
    run = write_run(tmp_path / "run", iterations=1)
    assert main(["plot", str(run), "--output", str(tmp_path / "mine.png")]) == 0
    names = [Path(path).name for path in capsys.readouterr().out.split()]
    assert names == ["mine.png", "mine-figure2.png", "mine-figure3.png"]
    assert main(["plot", str(run), "--output", str(tmp_path / "folder")]) == 0
    expected = [tmp_path / "folder" / name for name in ("curve.png", "figure2.png", "figure3.png")]
    assert capsys.readouterr().out.split() == [str(path) for path in expected]
    assert main(["plot", str(run), "--output", str(tmp_path / "mine.pdf")]) == 1
    assert "ending in .png" in capsys.readouterr().err


def test_a_run_without_tokens_still_gets_the_other_figures(tmp_path, capsys):
    run = write_run(tmp_path / "run", iterations=1, tokens=False)
    assert main(["plot", str(run)]) == 0
    printed = capsys.readouterr()
    assert printed.out.split() == [str(run / "curve.png"), str(run / "figure3.png")]
    assert "no figure 2" in printed.err
    assert "tokens.npz" in printed.err


def test_runs_of_two_kinds_are_not_mixed(tmp_path, capsys):
    run = write_run(tmp_path / "run", iterations=2)
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / "config.json").write_text('{"env": "Hopper-v5"}')
    assert main(["plot", str(run), str(tmp_path / "control")]) == 1
    assert "runs of one kind" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("metrics.jsonl", None, "no metrics.jsonl"),
        ("metrics.jsonl", "", "no metrics yet"),
        ("metrics.jsonl", "{broken\n", "damaged"),
        ("config.json", "{broken", "damaged"),
        ("config.json", '{"kind": "chess"}', "kind 'chess'"),
        ("tokens.npz", "", "damaged"),
        ("tokens.npz", "no archive", "damaged"),
    ],
)
def test_missing_empty_and_damaged_files_are_named(tmp_path, monkeypatch, capsys, file, content, said):
    for name in ("draw_curve", "draw_figure3"):
        monkeypatch.setattr(figures, name, lambda runs, output: [load_run(run) for run in runs] and output)
    run = write_run(tmp_path / "run", iterations=2)
    (run / file).unlink()
    if content is not None:
        (run / file).write_text(content)
    assert main(["plot", str(run)]) == 1
    error = capsys.readouterr().err
    assert str(run) in error
    assert said in error


def test_figure_2_says_what_is_missing(tmp_path):
    run = write_run(tmp_path / "run", iterations=2, tokens=False)
    with pytest.raises(RunDirectoryError, match=r"no tokens yet.*tokens\.npz"):
        draw_figure2(run, tmp_path / "figure2.png")
    np.savez(run / "tokens.npz", old_log_prob=np.zeros(3), log_ratio=np.zeros(3))
    with pytest.raises(RunDirectoryError, match="advantage"):
        draw_figure2(run, tmp_path / "figure2.png")
    np.savez(run / "tokens.npz", old_log_prob=np.zeros(0), log_ratio=np.zeros(0), advantage=np.zeros(0))
    with pytest.raises(RunDirectoryError, match="holds no tokens"):
        draw_figure2(run, tmp_path / "figure2.png")
    (run / "metrics.jsonl").write_text('{"step": 1, "ratio_variance": 0.1}\n')
    np.savez(run / "tokens.npz", old_log_prob=np.zeros(2), log_ratio=np.zeros(2), advantage=np.zeros(2))
    with pytest.raises(RunDirectoryError, match="no js"):
        draw_figure2(run, tmp_path / "figure2.png")


def test_tokens_that_are_not_finite_are_left_out(tmp_path):
    np.savez(
        tmp_path / "tokens.npz", old_log_prob=[-1.0, -np.inf, -2.0], log_ratio=[0.1, 0.2, np.nan], advantage=np.ones(3)
    )
    assert read_tokens(tmp_path)["log_ratio"].tolist() == [0.1]


def captured_figure(monkeypatch, module):
    figures_seen = []
    monkeypatch.setattr(module, "save_figure", lambda figure, output: figures_seen.append(figure) or Path(output))
    return figures_seen


def test_figure_2_holds_every_token_once_and_the_proxies(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", iterations=3)
    log_ratio, advantage = np.log([1.0, 1.1, 1.3, 0.7, 2.0]), np.array([1.0, -1.0, 1.0, -1.0, 0.0])
    np.savez(
        run / "tokens.npz", old_log_prob=np.log([0.9, 0.8, 0.1, 0.2, 0.3]), log_ratio=log_ratio, advantage=advantage
    )
    seen = captured_figure(monkeypatch, figure2)
    draw_figure2(run, tmp_path / "figure2.png")
    tokens, js, kl = seen[0].axes
    points = {scatter.get_label(): sorted(scatter.get_offsets()[:, 1].tolist()) for scatter in tokens.collections}
    expected = {"|ρ-1| ≤ 0.2: 40 %": [1.0, 1.1], "beyond, A = 0: 20 %": [2.0]}
    expected |= {"beyond, A < 0: 20 %": [0.7], "beyond, A > 0: 20 %": [1.3]}
    assert points.keys() == expected.keys()
    assert all(points[label] == pytest.approx(expected[label]) for label in expected)
    variance = load_run(run).series("ratio_variance")[1]
    for axis, divisor, name in ((js, 8, "js"), (kl, 2, "kl")):
        measured, proxy = axis.lines
        assert measured.get_ydata() == pytest.approx(load_run(run).series(name)[1])
        assert proxy.get_ydata() == pytest.approx(variance / divisor)


def test_figure_3_averages_the_seeds_of_a_method(tmp_path, monkeypatch):
    runs = [
        write_run(tmp_path / f"{m}-{s}", m, s, 40) for m, seeds in (("grpo", 3), ("r2vpo-off", 2)) for s in range(seeds)
    ]
    seen = captured_figure(monkeypatch, figure3)
    draw_figure3(runs, tmp_path / "figure3.png")
    accuracy = seen[0].axes[0]
    assert len(accuracy.lines) == 2
    own = [load_run(run).series("accuracy_greedy")[1] for run in runs[:3]]
    assert accuracy.lines[0].get_ydata() == pytest.approx(np.mean(own, axis=0))
    band = accuracy.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((np.min(own), np.max(own)))
    legend = [text.get_text() for text in seen[0].legends[0].get_texts()]
    assert legend == ["grpo (3 seeds)", "r2vpo-off (2 seeds)"]


def test_the_point_before_training_begins_the_curve():
    before = {"step": 10, "first_accuracy_greedy": 0.25, "accuracy_greedy": None, "reward": 0.5}
    run = PlottedRun(Path("run"), {}, [before, {"step": 20, "accuracy_greedy": 0.75}])
    assert [values.tolist() for values in curve_of(run, "accuracy_greedy")] == [[0.0, 20.0], [0.25, 0.75]]
    assert [values.tolist() for values in curve_of(run, "reward")] == [[10.0], [0.5]]


def test_figure_3_has_a_row_for_each_model(tmp_path, monkeypatch):
    runs = [write_run(tmp_path / model, model=model, iterations=3) for model in ("small", "large")]
    seen = captured_figure(monkeypatch, figure3)
    draw_figure3(runs, tmp_path / "figure3.png")
    assert len(seen[0].axes) == 4
    assert "large on arithmetic" in seen[0].axes[2].get_title()


def test_figure_3_says_the_name_of_a_task_and_of_its_own_model_once(tmp_path, monkeypatch):
    task = "reasoning-gym:chain_sum,min_terms=3,max_terms=4"
    run = write_run(tmp_path / "run", model=task, dataset=task, iterations=3)
    seen = captured_figure(monkeypatch, figure3)
    draw_figure3([run], tmp_path / "figure3.png")
    assert seen[0].axes[0].get_title() == f"greedy accuracy, held-out problems\n{task}"


def test_mean_is_over_the_same_runs_everywhere():
    long, short = (
        (np.array([0.0, 10.0, 20.0]), np.array([0.0, 1.0, 2.0])),
        (np.array([5.0, 10.0]), np.array([3.0, 5.0])),
    )
    steps, mean, low, high = mean_and_range([long, short])
    assert steps.tolist() == [5.0, 10.0]
    assert (mean.tolist(), low.tolist(), high.tolist()) == ([1.75, 3.0], [0.5, 1.0], [3.0, 5.0])
    assert not len(mean_and_range([long, (np.array([30.0]), np.array([1.0]))])[0])


def test_seeds_share_a_group_and_other_settings_do_not():
    runs = [plotted(method="r2vpo-off", seed=s, lam=lam) for s, lam in ((0, 0.04), (1, 0.04), (0, 0.5))]
    runs += [plotted(method="grpo", seed=0, lam=0.04)]
    assert {label: len(group) for label, group in group_runs(runs).items()} == {
        "r2vpo-off, lam 0.04": 2,
        "r2vpo-off, lam 0.5": 1,
        "grpo": 1,
    }
    assert list(group_runs([plotted(objective="spo", algo="on-policy")])) == ["spo on-policy"]


def test_no_two_of_many_methods_look_alike():
    chosen = looks(["r2vpo-off", "r2vpo-on", *(f"m{i}" for i in range(20))])
    assert len({(look.color, look.linestyle) for look in chosen.values()}) == 22


def test_running_mean_by_hand():
    assert smooth(np.array([1.0, 2.0, 6.0, 4.0]), 3).tolist() == [1.5, 3.0, 4.0, 5.0]
    assert smooth(np.array([1.0, 5.0]), 1).tolist() == [1.0, 5.0]


def test_ages_are_read_from_text_keys_in_order(tmp_path):
    lines = [
        {"step": 1, "ratio_variance_by_age": {"10": 0.4, "2": 0.2}},
        {"step": 2},
        {"step": 3, "ratio_variance_by_age": {"2": None}},
    ]
    by_age = figures.ages(PlottedRun(tmp_path, {}, lines))
    assert {age: (steps.tolist(), values.tolist()) for age, (steps, values) in by_age.items()} == {
        2: ([1.0], [0.2]),
        10: ([1.0], [0.4]),
    }
    assert list(by_age) == [2, 10]


@pytest.mark.parametrize("count", [1, 3])
def test_curve_survives_metrics_that_lack_almost_everything(tmp_path, count):
    runs = [tmp_path / str(i) for i in range(count)]
    for run in runs:
        run.mkdir()
        (run / "metrics.jsonl").write_text('{"step": 8, "reward": null, "ratio_variance": 0.0, "kl": NaN}\n')
    path = figures.draw_curve(runs, tmp_path / "curve.png")
    assert path.read_bytes().startswith(PNG)
    assert draw_figure3(runs, tmp_path / "figure3.png").read_bytes().startswith(PNG)
