"""Values that no setting takes, for every field of both trainers: each is refused by name before anything starts.

What is wrong for a field follows from its kind alone (a count, a share, a name out of a list, ...), not from the code
that checks it.
"""

import math
from dataclasses import fields
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2vpo.cli import read_settings
from r2vpo.control.config import ControlConfig
from r2vpo.control.presets import resolve_config as resolve_control
from r2vpo.errors import ConfigError
from r2vpo.llm.config import LLMConfig
from r2vpo.llm.config import resolve_config as resolve_llm
from r2vpo.validation import ObjectiveKwargs

TRAINERS = {"control": (ControlConfig, resolve_control), "llm": (LLMConfig, resolve_llm)}
NO_NUMBERS = [math.nan, math.inf, -math.inf, "1", b"1", [1], {}, True, False, 1j]


def wrong_values(hint):
    """Values outside a field's type, whatever its bounds."""
    optional = type(None) in get_args(hint)
    kinds = [kind for kind in (get_args(hint) if optional else (hint,)) if kind is not type(None)]
    (kind,) = kinds
    missing = [] if optional else [None]
    if get_origin(kind) is Literal:
        return st.sampled_from([*missing, 0, 1.5, True, b"a", ("a",)]) | st.text().filter(
            lambda text: text not in get_args(kind)
        )
    if kind is bool:
        return st.sampled_from([None, 0, 1, "yes", "True", 1.0, [], math.nan])
    if kind is str:
        return st.sampled_from([*missing, 0, 1.5, True, b"text", ["text"], {}])
    if kind is int:
        return (
            st.sampled_from([*missing, *NO_NUMBERS])
            | st.integers(max_value=-1)
            | st.floats().filter(lambda number: not number.is_integer())
        )
    if kind is float:
        return st.sampled_from([*missing, *NO_NUMBERS])
    if get_origin(kind) is tuple:
        return st.sampled_from([*missing, 3, 1.5, "text", {}, [None], [[]]])
    if get_origin(kind) is dict:
        unknown = [{"no such hyperparameter": 1.0}] if kind == ObjectiveKwargs else []
        return st.sampled_from([None, 3, "eps", [("eps", 0.1)], {1: 2}, *unknown])
    raise AssertionError(f"a kind of setting that nobody fuzzes: {hint}")


CASES = [(name, f.name) for name, (config, _) in TRAINERS.items() for f in fields(config)]


@pytest.mark.parametrize(("trainer", "field"), CASES)
@given(data=st.data())
def test_a_value_of_another_kind_is_refused_by_name(refused, trainer, field, data):
    config, resolve = TRAINERS[trainer]
    value = data.draw(wrong_values(get_type_hints(config)[field]))
    with pytest.raises(ConfigError) as caught:
        resolve({field: value})
    named = caught.value.field
    assert named == field or field in ("model", "dataset", "method", "objective_kwargs"), named
    assert "must be" in str(caught.value)
    refused(caught.value, trainer, field, value)


@pytest.mark.parametrize("trainer", TRAINERS)
@given(name=st.text(max_size=30))
def test_a_name_that_is_no_setting_is_refused(refused, trainer, name):
    config, resolve = TRAINERS[trainer]
    if name in {f.name for f in fields(config)}:
        return
    with pytest.raises(ConfigError) as caught:
        resolve({name: 1})
    assert caught.value.field == name
    refused(caught.value, trainer, name)


@given(text=st.text() | st.text("{}[]:,-\"'#&*!|>% \n\t0aé\ufeff"))
@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_a_file_holds_settings_or_is_refused(refused, tmp_path, suffix, text):
    path = tmp_path / f"settings{suffix}"
    path.write_text(text, encoding="utf-8", newline="")
    try:
        assert isinstance(read_settings(path), dict)
    except ConfigError as error:
        refused(error, suffix, text, names=str(path))
