"""The table of the best and the worst answers."""

import numpy as np
from adding_engine import AddingEngine, rows, run

from r2vpo.llm.engines.base import Completion
from r2vpo.llm.evaluation.tables import write_answers_table


def test_table_shows_best_and_worst_with_mixed_problems_first(tmp_path):
    file = tmp_path / "completions.jsonl"
    problems = [{"prompt": "1+1=", "answer": "9", "id": "never"}, {"prompt": "1+5=", "answer": "6", "id": "some|times"}]
    run(output=file, problems=problems)
    text = write_answers_table({"sums": file}, tmp_path / "table.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert table[2].startswith("| some|times: 1+5=<br><br>**6** | 6 | 1 | 7 | 0 | 5 of 5 |".replace("some|", "some\\|"))
    assert "2 of 2 problems" in text


def test_long_answers_keep_their_end_and_cannot_break_the_table(tmp_path):
    class Rambling(AddingEngine):
        def generate(self, prompts, group_size, sampling, seeds):
            tokens = np.array([ord(c) for c in "a|b\n<script>" * 500 + "the end"], np.int32)
            return [Completion(tokens, np.zeros(len(tokens), np.float32), False, 0) for _ in seeds]

    file = tmp_path / "completions.jsonl"
    run(Rambling(), output=file, problems=rows(1))
    row = write_answers_table({"sums": file}, tmp_path / "table.md").read_text().splitlines()[-1]
    assert len(row) < 4000
    assert "the end | 0" in row
    assert "<script>" not in row
    assert row.replace("\\|", "").count("|") == 7
