"""The page of a report: its numbers are those of report.json, it is whole, and it treats all alike."""

import base64
import html
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
    write_report(ReportCommand((BENCHMARK,), out, quiet=True, resamples=500, interactive=False), "r2vpo report")
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
    # Runs in all, final returns, the summary, the normalisation, aggregates, probabilities of improvement, every run.
    assert len(page.cells) == 1 + 15 + 15 * 7 + 3 * 2 + 5 * 4 + 4 * 4 + 75 * 3
    for attributes, text in page.cells:
        assert is_shown(at(document, attributes["data-key"]), text), (attributes, text)
    assert (document["reference"], document["baseline"], document["origin"]["runs"]) == ("ppo", "sb3-ppo", 75)
    shown = {attributes["data-key"] for attributes, _ in page.cells}
    for i in range(15):
        assert {f"summary.{i}.final.iqm", f"summary.{i}.while_training.iqm", f"summary.{i}.wall_seconds"} <= shown
    intervals = [(attributes["data-key"], text) for attributes, text in page.cells if "[" in text]
    assert len(intervals) == 15 + 15 * 4 + 5 * 4 + 4 * 4
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
    assert headings == ["h1"] + ["h2"] * 8
    said = " ".join(page.text)
    order = ["Final return", "Each task", "All tasks together", "Learning curves", "Ratio variance and λ", "Videos of"]
    order += ["Every run", "machine"]
    assert [said.index(words) for words in order] == sorted(said.index(words) for words in order)
    assert said.count("Not recorded.") == 2
    assert "There is no video of any of these runs." in said


def test_the_best_of_a_row_is_marked_whoever_it_is(real):
    document, page = json.loads((real / NUMBERS).read_text()), parsed((real / PAGE).read_text())
    marked = [attributes["data-key"] for attributes, _ in page.cells if "best" in attributes.get("class", "").split()]
    numbers = {key: at(document, key) for key in marked}
    summary = document["summary"]
    for env in document["tasks"]:
        best = max(row["final"]["iqm"] for row in summary if row["env"] == env)
        assert [k for k in marked if k.startswith("summary.") and numbers[k] == best]
    for name, choose in (("iqm", max), ("optimality_gap", min)):
        (found,) = [numbers[key] for key in marked if key.endswith(f".{name}.value")]
        assert found == choose(row[name]["value"] for row in document["aggregates"])
    overall = [numbers[key] for key in marked if key.endswith(".overall.value")]
    assert set(overall) == {max(row["overall"]["value"] for row in document["improvement"])}
    assert len(marked) >= 3 + 4 + 1 + 3


def test_an_algorithm_alone_is_not_the_best(tmp_path):
    _, page = report(tmp_path, [line("ppo", 0, 12.0)])
    assert not [attributes for attributes, _ in page.cells if "best" in attributes.get("class", "")]


def test_interactive_curves_are_in_the_page_once(tmp_path):
    plotly = pytest.importorskip("plotly")
    lines = two_algorithms()
    lines[0]["algo"] = lines[1]["algo"] = lines[2]["algo"] = lines[3]["algo"] = "</script><b>"
    lines[7] |= {"ratio_variance": [None, 0.01, 0.1, 1.0], "lam": [1.0, 2.0, 3.0, 4.0]}
    document, page = report(tmp_path, lines, interactive=True)
    text = (tmp_path / "out" / PAGE).read_text()
    library = (Path(plotly.__file__).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    assert text.count(library) == 1
    rest = text.replace(library, "")
    assert not re.search(r"https?://|@import|url\(|<(?:link|iframe|base)\b|src=\"(?!data:)", rest)
    assert "default-src 'none'" in rest
    curves = json.loads(re.search(r'<script id="curves-data" type="application/json">(.*?)</script>', rest)[1])
    assert [look["name"] for look in curves["algorithms"]] == ["</script><b>", "new"]
    assert [(plot["set"], plot["log"]) for plot in curves["plots"]] == [
        ("steps", False),
        ("ratio_variance", True),
        ("lam", False),
    ]
    for row, told in zip(curves["plots"][0]["rows"], document["curves"], strict=True):
        for field in ("steps", "seconds", "iqm", "low", "high"):
            assert [value is None for value in row[field]] == [value is None for value in told[field]]
            known = [value for value in told[field] if value is not None]
            assert [value for value in row[field] if value is not None] == pytest.approx(known, rel=1e-4)
    places = [attributes["data-plot"] for tag, attributes in page.tags if "data-plot" in attributes]
    assert places == ["0", "1", "2"]
    assert len(page.images) == 3
    assert (tmp_path / "out" / "steps_Hop-v0.png").is_file()


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


def probed(path, tmp_path, script, width):
    """What ``script``, an expression, finds in a page that a browser has shown in a frame of this width."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is installed")
    probe = """<script>addEventListener("load", async () => {
      const found = document.createElement("pre");
      found.id = "probe";
      found.textContent = JSON.stringify(await (async () => SCRIPT)());
      document.body.append(found);
    });</script></body>"""
    copy = tmp_path / "probe.html"
    head, _, tail = path.read_text().rpartition("</body>")
    copy.write_text(head + probe.replace("SCRIPT", script) + tail)
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"]
    words += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000", "--dump-dom", copy.as_uri()]
    run = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(html.unescape(re.search(r'<pre id="probe">(.*?)</pre>', run.stdout, re.DOTALL)[1]))


@pytest.mark.slow
def test_page_in_a_browser(real, tmp_path):
    script = """({
        images: [...document.images].map(i => [i.naturalWidth, i.clientWidth]),
        table: document.querySelector("table").innerText,
        width: document.documentElement.scrollWidth, window: innerWidth,
      })"""
    found = probed(real / PAGE, tmp_path, script, 500)
    assert len(found["images"]) == 9
    assert min(natural for natural, _ in found["images"]) > 300
    assert max(shown for _, shown in found["images"]) <= found["window"]
    assert found["width"] <= found["window"]
    document = json.loads((real / NUMBERS).read_text())
    for row in document["summary"]:
        assert row["algo"] in found["table"]
        assert number_text(row["final"]["iqm"]) in found["table"]


@pytest.mark.slow
def test_curves_answer_in_a_browser(tmp_path):
    pytest.importorskip("plotly")
    report(tmp_path, two_algorithms(), interactive=True)
    script = """(await new Promise((done) => {
        const look = () => document.querySelector("[data-drawn]") ? done() : setTimeout(look, 20);
        document.querySelector("[data-plot]").scrollIntoView();
        look();
      }), (() => {
        const plot = document.querySelector("[data-plot]"), controls = document.getElementById("curves-controls");
        const lines = () => plot.data.filter(t => t.hovertemplate).map(t => [t.name, t.x, t.y]);
        const state = () => [lines(), plot.layout.xaxis.title.text];
        const change = (box) => { box.click(); return state(); };
        return {
          first: state(),
          seconds: change(controls.querySelector("[value=seconds]")),
          less: change(controls.querySelector("[value=ppo]")),
          width: document.documentElement.scrollWidth, window: innerWidth,
        };
      })())"""
    found = probed(tmp_path / "out" / PAGE, tmp_path, script, 500)
    lines, title = found["first"]
    assert title == "environment steps"
    assert lines == [["ppo", [100, 200, 300, 400], [0, 5, 10, 10]], ["new", [200, 300, 400], [10, 20, 30]]]
    lines, title = found["seconds"]
    assert title.startswith("wall-clock seconds")
    assert lines[0][1] == pytest.approx([0.875, 1.75, 2.625, 3.5])
    assert [name for name, *_ in found["less"][0]] == ["new"]
    assert found["width"] <= found["window"]
