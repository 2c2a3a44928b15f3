"""Reports of study lines that are made up, and a reader of their pages."""

import json
from html.parser import HTMLParser

from r2vpo.control.report.command import NUMBERS, PAGE, ReportCommand, write_report

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
    command = ReportCommand((folder,), out, **{"quiet": True, "resamples": 200, "interactive": False, **settings})
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
