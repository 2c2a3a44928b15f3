"""The page of a report: its numbers are those of report.json, it is whole, and it treats all alike."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from reports import line, parsed, report, two_algorithms

from r2vpo.control.report.command import NUMBERS, PAGE, ReportCommand, write_report
from r2vpo.control.report.figures import Style
from r2vpo.control.report.page import number_text

BENCHMARK = Path(__file__).resolve().parents[3] / "benchmarks" / "control_300k"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "chromium-headless-shell")


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


def test_more_than_ten_algorithms_differ_in_line_style(tmp_path):
    names = [f"algorithm-{i}" for i in range(12)]
    style = Style(names)
    assert len({(style.color(name), style.line(name)) for name in names}) == 12
    document, _ = report(tmp_path, [line(name, 0, float(i)) for i, name in enumerate(names)], resamples=10)
    assert len(document["aggregates"]) == 12


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
    assert (document["reference"], document["baseline"], document["origin"]["runs"]) == ("ppo", "sb3-ppo", 75)
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


def test_many_commands_are_folded(tmp_path):
    lines = [one | {"command": f"r2vpo control study --first-seed {i}"} for i, one in enumerate(two_algorithms())]
    _, page = report(tmp_path, lines)
    assert "7 more commands" in page.text
    assert {one["command"] for one in lines} <= set(page.text)


def test_numbers_in_words():
    assert [number_text(v, d) for v, d in ((1234.5, 1), (-2.0, 0), (-0.2, 0), (None, 2))] == ["1,234.5", "−2", "0", "–"]


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
