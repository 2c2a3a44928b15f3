"""What `number` and `math_verify` say on a table of answers that were judged by hand (judged_answers.tsv).

``right``, ``wrong`` and ``none`` (no verdict); ``-`` where an answer is put to the other verifier alone.
"""

from collections import Counter
from pathlib import Path

import pytest

from r2vpo.llm.rewards import make_reward

TABLE = [
    line.split("\t")
    for line in Path(__file__).with_name("judged_answers.tsv").read_text(encoding="utf-8").splitlines()[1:]
]
SAID = {1.0: "right", 0.0: "wrong", None: "none"}


def said(name, column):
    rows = [(prediction, truth, row[column]) for row in TABLE for prediction, truth in [row[:2]] if row[column] != "-"]
    reward = make_reward(name)
    values = reward(prompts=[""] * len(rows), completions=[row[0] for row in rows], answer=[row[1] for row in rows])
    if name == "math_verify":
        reward.close()
    return [(row, SAID[value]) for row, value in zip(rows, values, strict=True)]


@pytest.mark.parametrize(("name", "column"), [("number", 2), ("math_verify", 3)])
def test_every_answer_is_judged_as_by_hand(name, column):
    if name == "math_verify":
        pytest.importorskip("math_verify")
    assert [(row, value) for row, value in said(name, column) if value != row[2]] == []


def test_the_table_is_large_and_holds_every_verdict():
    assert len({tuple(row[:2]) for row in TABLE}) >= 150
    for column in (2, 3):
        counts = Counter(row[column] for row in TABLE)
        assert counts["right"] >= 50
        assert counts["wrong"] >= 50
        assert counts["none"] >= 1
