"""Files of rows, and what a refused dataset says."""

import json

import pytest

from r2vpo.errors import ConfigError
from r2vpo.llm.data.rows import load_rows


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path, rows):
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def refused(field, *arguments, **settings):
    with pytest.raises(ConfigError) as error:
        load_rows(*arguments, **settings)
    assert error.value.field == field
    return str(error.value)
