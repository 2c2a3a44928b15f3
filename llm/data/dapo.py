"""DAPO-Math-17k as published: rows in verl's layout, each prompt about a hundred times (1.79 M rows for 17 k prompts).

Columns: ``data_source, prompt`` (chat messages), ``ability, reward_model{style, ground_truth}, extra_info{index}``.
Source: the data set BytedTsinghua-SIA/DAPO-Math-17k of arXiv 2503.14476.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from r2vpo.errors import ConfigError
from r2vpo.llm.data.files import Row, iterate_file, parquet_batches

_log = logging.getLogger(__name__)


def read_dapo(files: Iterable[Path], limit: int | None = None) -> list[Row]:
    """Rows of the files, each problem once, with ``prompt`` (chat messages) and ``answer``; logs what was dropped.

    Args:
        files: Parquet or JSON files in verl's layout.
        limit: Most problems; None reads all.

    Raises:
        ConfigError: A file that cannot be read, or rows without ``extra_info.index`` or ``reward_model.ground_truth``.
    """
    return keep_first((part for file in files for part in _parts(file)), limit)


def keep_first(parts: Iterable[Any], limit: int | None = None) -> list[Row]:
    """As :func:`read_dapo`, of parts that are lists of rows or Arrow record batches."""
    unique = _Unique()
    rows = list(islice((verl_row(row) for part in parts for row in unique.rows(part)), limit))
    repeated = unique.read - len(unique.seen)
    _log.warning(
        "DAPO-Math-17k: read %s rows, dropped %s repeated ones, kept %s",
        *(f"{number:,}" for number in (unique.read, repeated, len(unique.seen))),
    )
    return rows


def verl_row(row: Row) -> Row:
    """The row with the ``answer`` that verl keeps in ``reward_model.ground_truth``.

    Raises:
        ConfigError: There is none.
    """
    reward_model = row.get("reward_model")
    if not isinstance(reward_model, dict) or reward_model.get("ground_truth") is None:
        columns = ", ".join(map(str, row))
        raise ConfigError("dataset", "dapo-math-17k", f"rows with reward_model.ground_truth; the columns are {columns}")
    return {**row, "answer": str(reward_model["ground_truth"])}


def _parts(path: Path) -> Iterator[Any]:
    if path.suffix == ".parquet":
        yield from parquet_batches(path)
    else:
        yield list(iterate_file(path))


class _Unique:
    """The first row of each ``extra_info.index``."""

    def __init__(self) -> None:
        self.read = 0
        self.seen: set[Any] = set()

    def rows(self, part: Any) -> list[Row]:
        """Those of a part whose index was never seen before."""
        if isinstance(part, list):
            return [part[i] for i in self._positions(_index(row.get("extra_info"), row) for row in part)]
        # Only the index becomes Python objects for every row: the prompts of a hundred copies never do.
        if "extra_info" not in part.schema.names:
            raise _no_index(part.schema.names)
        infos = part.column("extra_info").to_pylist()
        positions = self._positions(_index(info, part.schema.names) for info in infos)
        # Arrow cannot tell the type of an empty list of positions.
        return part.take(positions).to_pylist() if positions else []

    def _positions(self, indices: Iterable[Any]) -> list[int]:
        positions = []
        for position, index in enumerate(indices):
            self.read += 1
            if index not in self.seen:
                self.seen.add(index)
                positions.append(position)
        return positions


def _index(info: Any, columns: Iterable[str]) -> Any:
    if not isinstance(info, dict) or info.get("index") is None:
        raise _no_index(columns)
    return info["index"]


def _no_index(columns: Iterable[str]) -> ConfigError:
    return ConfigError(
        "dataset", "dapo-math-17k", f"rows with extra_info.index; the columns are {', '.join(map(str, columns))}"
    )
