"""The report: numbers known by hand, a page whose numbers are those of report.json, and bad lines that are named."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from r2vpo import cli
from r2vpo.control.report.page import number_text
from r2vpo.control.report.command import NUMBERS, PAGE, ReportCommand, write_report
from r2vpo.control.report.lines import FIELDS, read_study
from r2vpo.errors import ConfigError, R2VPOError, RunDirectoryError

BENCHMARK = Path(__file__).resolve().parents[3] / "benchmarks" / "control_300k"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "chromium-headless-shell")
VOID = {"meta", "img", "br", "hr", "link", "input"}


def line(algo, seed, final, env="Hop-v0", returns=(0.0, 5.0, 10.0, 10.0), **fields):
    steps = [100 * (i + 1) for i in range(len(returns))]
    return {
        "algo": algo,
        "env": env,
        "seed": seed,
        "total_steps": steps[-1],
        "eval_return_mean": final,
        "steps": steps,
        "returns": list(returns),
        "wall_seconds": 2.0 + seed,
        "steps_per_second": 100.0,
        "config": {"delta": 0.1, "seed": seed},
        "versions": {"python": "3"},
        "machine": {"cores": 2},
        "commit": "abc",
        **fields,
    }


def two_algorithms():
    """New reaches PPO's last level of 10 at step 200, is the better of most pairs, and ties once."""
    finals = {"ppo": (0.0, 10.0, 10.0, 20.0), "new": (10.0, 20.0, 30.0, 40.0)}
    curves = {"ppo": (0.0, 5.0, 10.0, 10.0), "new": (None, 10.0, 20.0, 30.0)}
    return [line(algo, seed, finals[algo][seed], returns=curves[algo]) for algo in finals for seed in range(4)]


def write_lines(folder, lines):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "runs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return folder


def report(tmp_path, lines, **settings):
    folder = write_lines(tmp_path / "study", lines)
    out = tmp_path / "out"
    command = ReportCommand((folder,), out, **{"quiet": True, "resamples": 200, **settings})
    document = write_report(command, "r2vpo report study")
    assert json.loads((out / NUMBERS).read_text()) == document
    return document, parsed((out / PAGE).read_text())


class Parsed(HTMLParser):
    """Tags that close, images, videos, number cells, and all text."""

    def __init__(self):
        super().__init__()
        self.open, self.images, self.videos, self.cells, self.text, self.tags = [], [], [], [], [], []
        self.in_cell = False

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag == "img":
            self.images.append(attributes)
        if tag == "video":
            self.videos.append(attributes)
        if "data-key" in attributes:
            self.cells.append([attributes, ""])
            self.in_cell = True
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.in_cell = False

    def handle_data(self, data):
        self.text.append(data)
        if self.in_cell:
            self.cells[-1][1] += data


def parsed(page):
    assert page.startswith("<!DOCTYPE html>")
    parser = Parsed()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def at(document, key):
    for name in key.split("."):
        document = document[int(name)] if isinstance(document, list) else document[name]
    return document


def is_shown(value, text):
    """Whether ``text`` begins with ``value``, rounded to as many digits as it shows; a list shows its length."""
    shown = text.split(" ")[0]
    if value is None:
        return shown in ("–", "never")
    expected = len(value) if isinstance(value, list) else value
    digits = len(shown.partition(".")[2])
    return float(shown.replace(",", "").replace("−", "-")) == pytest.approx(expected, abs=0.5001 * 10**-digits)


def png_bytes(uri):
    kind, _, data = uri.partition(",")
    assert kind == "data:image/png;base64"
    return base64.b64decode(data, validate=True)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    out = tmp_path_factory.mktemp("real")
    write_report(ReportCommand((BENCHMARK,), out, quiet=True, resamples=500), "r2vpo report")
    return out


def test_numbers_of_two_algorithms_by_hand(tmp_path):
    document, _ = report(tmp_path, two_algorithms())
    ppo, new = document["summary"]
    assert (document["reference"], document["baseline"]) == ("ppo", "ppo")
    assert (ppo["final"]["iqm"], ppo["final"]["mean"]) == (10.0, 10.0)
    assert (new["final"]["iqm"], new["final"]["mean"]) == (25.0, 25.0)
    assert ppo["while_training"]["iqm"] == 6.25
    assert new["while_training"]["iqm"] == 20.0  # its first window has no episode
    assert ppo["steps_to_reference"] == {"level": 10.0, "value": 300.0, "interval": [300.0, 300.0]}
    assert new["steps_to_reference"] == {"level": 10.0, "value": 200.0, "interval": [200.0, 200.0]}
    assert ppo["wall_seconds"] == 3.5
    # First known training returns: 0 four times and 10 four times. The best mean: 25.
    assert document["normalisation"] == [{"env": "Hop-v0", "low": 5.0, "high": 25.0, "left_out": None}]
    aggregates = {row["algo"]: row for row in document["aggregates"]}
    assert aggregates["new"]["iqm"]["value"] == 1.0
    assert aggregates["ppo"]["mean"]["value"] == 0.25
    # Normalised: -0.25, 0.25, 0.25, 0.75 and 0.25, 0.75, 1.25, 1.75.
    assert aggregates["ppo"]["optimality_gap"]["value"] == 0.75
    assert aggregates["new"]["optimality_gap"]["value"] == 0.25
    (improvement,) = document["improvement"]
    # Of 16 pairs: 10 beats one and ties two; 20 beats three and ties one; 30 and 40 beat all four.
    assert improvement["overall"]["value"] == (1 + 1 + 3 + 0.5 + 8) / 16
    assert improvement["tasks"] == [improvement["overall"]]
    low, high = improvement["overall"]["interval"]
    assert 0.4 < low < improvement["overall"]["value"] < high <= 1.0


def test_never_reached_is_said_in_words(tmp_path):
    lines = two_algorithms()
    document, page = report(tmp_path, lines, reference="new", baseline="new")
    assert document["summary"][0]["steps_to_reference"] == {"level": 30.0, "value": None, "interval": [None, None]}
    assert "never [never, never]" in page.text


def test_every_number_on_the_page_is_that_of_the_json(real):
    document, page = json.loads((real / NUMBERS).read_text()), parsed((real / PAGE).read_text())
    # Runs in all, the summary, the normalisation, aggregates, probabilities of improvement, and every run.
    assert len(page.cells) == 1 + 15 * 7 + 3 * 2 + 5 * 4 + 4 * 4 + 75 * 3
    for attributes, text in page.cells:
        assert is_shown(at(document, attributes["data-key"]), text), (attributes, text)
    shown = {attributes["data-key"] for attributes, _ in page.cells}
    for i in range(15):
        assert {f"summary.{i}.final.iqm", f"summary.{i}.while_training.iqm", f"summary.{i}.wall_seconds"} <= shown
    intervals = [(attributes["data-key"], text) for attributes, text in page.cells if "[" in text]
    assert len(intervals) == 15 * 4 + 5 * 4 + 4 * 4
    for key, text in intervals:
        parent, _, name = key.rpartition(".")
        beside = at(document, parent)
        ends = beside[f"{name}_interval"] if f"{name}_interval" in beside else beside["interval"]
        low, high = text.partition("[")[2].rstrip("]").split(", ")
        assert is_shown(ends[0], low)
        assert is_shown(ends[1], high), (key, text)


def test_scores_are_those_of_the_comparison(real):
    document = json.loads((real / NUMBERS).read_text())
    rows = json.loads((BENCHMARK / "comparison.json").read_text())["comparison"]
    ours = {(row["env"], row["algo"]): row for row in document["summary"]}
    assert len(rows) == len(ours) == 15
    for row in rows:
        mine = ours[row["env"], row["algo"]]
        for name in ("mean", "mean_interval", "iqm", "iqm_interval"):
            assert mine["final"][name] == pytest.approx(row["deterministic"][name])
            assert mine["while_training"][name] == pytest.approx(row["while_training"][name])
        assert mine["steps_per_second"] == pytest.approx(row["steps_per_second"])
    assert (document["reference"], document["baseline"]) == ("ppo", "sb3-ppo")
    assert document["origin"]["runs"] == 75


def test_page_is_whole_and_needs_nothing_from_elsewhere(real):
    text = (real / PAGE).read_text()
    page = parsed(text)
    assert len(page.images) == 3 + 2 * 3
    for attributes in page.images:
        assert png_bytes(attributes["src"]).startswith(b"\x89PNG\r\n\x1a\n")
        assert len(attributes["alt"]) > 20
    pngs = {path.read_bytes() for path in real.glob("*.png")}
    assert pngs == {png_bytes(attributes["src"]) for attributes in page.images}
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "base")]
    assert not re.search(r"https?://|@import|url\(", text)
    headings = [tag for tag, _ in page.tags if tag in ("h1", "h2")]
    assert headings == ["h1"] + ["h2"] * 6
    said = " ".join(page.text)
    order = ["Each task", "All tasks together", "Learning curves", "Ratio variance and λ", "Videos of", "Every run"]
    assert [said.index(words) for words in order] == sorted(said.index(words) for words in order)
    assert said.count("Not recorded.") == 2
    assert "There is no video of any of these runs." in said


def test_the_best_and_the_worst_look_the_same(real):
    page = parsed((real / PAGE).read_text())
    cells = [attributes for attributes, _ in page.cells if attributes["data-key"] != "origin.runs"]
    assert {attributes["class"] for attributes in cells} == {"number"}
    assert {frozenset(attributes) for attributes in cells} == {frozenset({"class", "data-key"})}
    assert not [tag for tag, _ in page.tags if tag in ("b", "strong", "em", "i", "mark")]


def test_same_lines_in_any_order_give_the_same_numbers(tmp_path):
    lines = two_algorithms()
    first, _ = report(tmp_path / "a", lines)
    second, _ = report(tmp_path / "b", [*lines[3::-1], *lines[:3:-1]])
    for field in ("summary", "aggregates", "profiles", "improvement", "curves", "runs"):
        assert first[field] == second[field]


def test_traces_are_drawn_for_those_that_have_them(tmp_path):
    lines = two_algorithms()
    for one in lines[4:]:
        one |= {"ratio_variance": [None, 0.1, 0.2, 0.4], "lam": [1.0, 2.0, 3.0, 4.0]}
    document, page = report(tmp_path, lines)
    (row,) = document["traces"]["ratio_variance"]
    assert (row["algo"], row["iqm"], row["runs"]) == ("new", [None, 0.1, 0.2, 0.4], 4)
    assert document["not_recorded"] == {"ratio_variance": ["ppo"], "lam": ["ppo"]}
    assert " ".join(page.text).count("Not recorded for ppo.") == 2
    assert len(page.images) == 3 + 2 + 2


def test_best_and_worst_films_are_embedded(tmp_path):
    lines = two_algorithms()
    for one in lines:
        one["run_dir"] = f"runs/{one['algo']}{one['seed']}"
    lines += [line("ppo", 0, 1.0, env="Walk-v0"), line("new", 0, 2.0, env="Walk-v0")]
    films = {"new3": b"best", "new0": b"worst", "ppo3": b"other", "ppo1": b"neither"}
    for name, content in films.items():
        folder = tmp_path / "study" / "runs" / name
        folder.mkdir(parents=True)
        (folder / "video.mp4").write_bytes(content)
    document, page = report(tmp_path, lines)
    shown = [base64.b64decode(video["src"].removeprefix("data:video/mp4;base64,")) for video in page.videos]
    assert shown == [b"other", b"best", b"worst"]
    assert "There is no video of ppo on Hop-v0 (worst), ppo on Walk-v0 (only)" in " ".join(page.text)
    assert [row["seed"] for row in document["videos"]] == [3, 0, 3, 0, 0, 0]
    document, page = report(tmp_path, lines, videos=0)
    assert (document["videos"], page.videos) == ([], [])
    document, page = report(tmp_path, lines, videos=1)
    assert {row["env"] for row in document["videos"]} == {"Hop-v0"}


def test_tasks_without_every_algorithm_or_without_learning_are_left_out_and_named(tmp_path):
    lines = two_algorithms()
    lines += [line("ppo", seed, 3.0, env="Half-v0") for seed in range(2)]
    lines += [line(algo, 0, 0.0, env="Flat-v0", returns=(0.0, 0.0, 0.0, 0.0)) for algo in ("ppo", "new")]
    lines += [line(algo, 0, 1.0, env="Long-v0", returns=(None,) * 4) for algo in ("ppo", "new")]
    document, page = report(tmp_path, lines)
    reasons = {row["env"]: row["left_out"] for row in document["normalisation"]}
    assert reasons["Hop-v0"] is None
    assert reasons["Half-v0"] == "no run of new"
    assert "no algorithm ends above" in reasons["Flat-v0"]
    assert "without a finished training episode" in reasons["Long-v0"]
    assert "no: no run of new" in page.text
    (improvement,) = document["improvement"]
    assert [estimate and estimate["value"] for estimate in improvement["tasks"]][1:] == [None, 0.5, 0.5]
    hop = improvement["tasks"][0]["value"]
    assert improvement["overall"]["value"] == pytest.approx((hop + 0.5 + 0.5) / 3)
    last = document["summary"][-1]
    assert (last["while_training"], last["steps_to_reference"]) == (None, None)


def test_one_run_alone_has_a_page(tmp_path):
    document, page = report(tmp_path, [line("ppo", 0, 12.0)])
    assert document["improvement"] == []
    assert "There is no other algorithm" in " ".join(page.text)
    assert document["summary"][0]["final"]["iqm_interval"] == [12.0, 12.0]


def test_names_are_escaped_and_commands_shown(tmp_path):
    lines = [line("<b>&", 0, 1.0, command="r2vpo control compare --env 'A & B'", date="2026-01-02T03:04")]
    document, page = report(tmp_path, lines, title="<script>alert(1)</script>")
    assert "<script>alert(1)</script>" in page.text
    assert "r2vpo control compare --env 'A & B'" in page.text
    assert document["origin"]["newest"] == "2026-01-02T03:04"
    assert not [tag for tag, _ in page.tags if tag in ("script", "b")]


def test_other_settings_are_another_algorithm(tmp_path):
    lines = two_algorithms()
    lines += [line("new", seed, 5.0, settings={"delta": 0.03}, success_rate=0.5) for seed in range(2)]
    lines[0]["settings"] = {}
    document, page = report(tmp_path, lines)
    assert document["algorithms"] == ["ppo", "new", "new delta=0.03"]
    assert [row["success_rate"] for row in document["summary"]] == [None, None, 0.5]
    assert [text for attributes, text in page.cells if "success_rate" in attributes["data-key"]] == ["–", "–", "0.50"]


def test_many_commands_are_folded(tmp_path):
    lines = [one | {"command": f"r2vpo control study --first-seed {i}"} for i, one in enumerate(two_algorithms())]
    _, page = report(tmp_path, lines)
    assert "7 more commands" in page.text
    assert {one["command"] for one in lines} <= set(page.text)


def test_more_than_ten_algorithms_differ_in_line_style(tmp_path):
    from r2vpo.control.report.figures import Style

    names = [f"algorithm-{i}" for i in range(12)]
    style = Style(names)
    assert len({(style.color(name), style.line(name)) for name in names}) == 12
    document, _ = report(tmp_path, [line(name, 0, float(i)) for i, name in enumerate(names)], resamples=10)
    assert len(document["aggregates"]) == 12


def test_numbers_in_words():
    assert [number_text(v, d) for v, d in ((1234.5, 1), (-2.0, 0), (-0.2, 0), (None, 2))] == ["1,234.5", "−2", "0", "–"]


def test_command_line_writes_and_names_the_files(tmp_path, capsys):
    folder = write_lines(tmp_path / "study", two_algorithms())
    words = ["report", str(folder / "runs.jsonl"), "--out", str(tmp_path / "out"), "--resamples", "50"]
    assert cli.main(words) == 0
    said = capsys.readouterr()
    assert said.out.split() == [str(tmp_path / "out" / PAGE), str(tmp_path / "out" / NUMBERS)]
    assert "parts" in said.err
    assert json.loads((tmp_path / "out" / NUMBERS).read_text())["command"] == " ".join(["r2vpo", *words])
    assert cli.main([*words, "--baseline", "dqn"]) == 1
    assert "baseline='dqn' is not allowed: baseline must be one of ppo, new" in capsys.readouterr().err


def test_two_files_make_one_report_and_a_cut_last_line_is_left_out(tmp_path):
    lines = two_algorithms()
    first, second = write_lines(tmp_path / "a", lines[:4]), write_lines(tmp_path / "b", lines[4:])
    with (second / "runs.jsonl").open("a") as file:
        file.write('{"algo": "new", "env')
    assert len(read_study([first, second / "runs.jsonl"]).runs) == 8


@pytest.mark.parametrize("field", FIELDS)
def test_missing_and_wrong_fields_are_named(tmp_path, field):
    good = line("ppo", 0, 1.0)
    with pytest.raises(R2VPOError, match=f"line 2 has no field '{field}'"):
        read_study([write_lines(tmp_path, [good, {k: v for k, v in good.items() if k != field}])])
    with pytest.raises(R2VPOError, match=f"line 1: {field}=.* must be "):
        read_study([write_lines(tmp_path, [{**good, field: {}}])])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"eval_return_mean": float("nan")}, "eval_return_mean=nan is not allowed"),
        ({"returns": [1.0]}, "a number or null for each of the 4 steps"),
        ({"lam": [1.0, 2.0]}, "lam=.* a number or null for each of the 4 steps"),
        ({"settings": 3}, "settings=3 is not allowed"),
        ({"success_rate": "often"}, "success_rate='often' is not allowed"),
        ({"seed": 0}, "seed='0, twice for ppo on Hop-v0'"),
        ({"total_steps": 800}, "total_steps='400 and 800 on Hop-v0' is not allowed.*the same in every run of a task"),
        ({"steps": [1, 2, 3, 4]}, "steps=.*differs on Hop-v0.*the same grid"),
        ({"steps": [4, 3, 2, 1]}, "ascending"),
    ],
)
def test_lines_that_do_not_fit_are_named(tmp_path, change, said):
    lines = [line("ppo", 0, 1.0), line("ppo", 1, 2.0) | change]
    with pytest.raises(R2VPOError, match=said):
        read_study([write_lines(tmp_path, lines)])


def test_bad_files_and_settings_write_nothing(tmp_path):
    folder = write_lines(tmp_path / "study", two_algorithms())
    out = tmp_path / "out"

    def write(lines=(folder,), **settings):
        write_report(ReportCommand(lines, out, quiet=True, **settings), "r2vpo report")

    with pytest.raises(ConfigError, match=r"lines=.*none\.jsonl.*a file of study lines"):
        write((tmp_path / "none.jsonl",))
    with pytest.raises(ConfigError, match="lines="):
        write((tmp_path,))
    with pytest.raises(ConfigError, match="lines="):
        write(())
    with pytest.raises(R2VPOError, match="holds no study line"):
        write((write_lines(tmp_path / "empty", []),))
    (tmp_path / "text.jsonl").write_text("hello\n{}\n")
    with pytest.raises(R2VPOError, match="line 1: not JSON"):
        write((tmp_path / "text.jsonl",))
    (tmp_path / "list.jsonl").write_text("[1]\n")
    with pytest.raises(R2VPOError, match="a study line is an object"):
        write((tmp_path / "list.jsonl",))
    with pytest.raises(ConfigError, match="reference='dqn' is not allowed: reference must be one of ppo, new"):
        write(reference="dqn")
    with pytest.raises(ConfigError, match="resamples=0"):
        write(resamples=0)
    with pytest.raises(ConfigError, match="videos=-1"):
        write(videos=-1)
    assert not out.exists()
    out.write_text("a file in the place of the folder")
    with pytest.raises(RunDirectoryError, match="cannot be written"):
        write(resamples=10)


@pytest.mark.slow
def test_page_in_a_browser(real, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is installed")
    probe = """<script>addEventListener("load", () => {
      const found = document.createElement("pre");
      found.id = "probe";
      found.textContent = JSON.stringify({
        images: [...document.images].map(i => [i.naturalWidth, i.clientWidth]),
        styles: [...new Set([...document.querySelectorAll("td.number")].map(
          c => ["fontWeight", "fontStyle", "color", "backgroundColor"].map(p => getComputedStyle(c)[p]).join()))],
        table: document.querySelector("table").innerText,
        width: document.documentElement.scrollWidth, window: innerWidth,
      });
      document.body.append(found);
    });</script></body>"""
    copy = tmp_path / "probe.html"
    copy.write_text((real / PAGE).read_text().replace("</body>", probe))
    size = "--window-size=500,900"
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", size, f"--user-data-dir={tmp_path / 'profile'}"]
    run = subprocess.run([*words, "--dump-dom", copy.as_uri()], capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(re.search(r'<pre id="probe">(.*?)</pre>', run.stdout, re.DOTALL)[1].replace("&gt;", ">"))
    assert len(found["images"]) == 9
    assert min(natural for natural, _ in found["images"]) > 300
    assert max(shown for _, shown in found["images"]) <= found["window"]
    assert len(found["styles"]) == 1
    assert found["width"] <= found["window"]
    document = json.loads((real / NUMBERS).read_text())
    for row in document["summary"]:
        assert row["algo"] in found["table"]
        assert number_text(row["final"]["iqm"]) in found["table"]
