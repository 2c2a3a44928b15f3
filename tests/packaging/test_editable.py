"""After an editable install, editors and type checkers find all four packages by following plain paths."""

import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

import r2vpo

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["control", "envs", "llm"])
def test_packages_are_found_without_an_import_hook(name):
    spec = PathFinder.find_spec(f"r2vpo.{name}", r2vpo.__path__)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).resolve() == ROOT / name / "__init__.py"


def test_the_checkout_is_on_the_path_itself():
    parent = str(Path(r2vpo.__file__).parents[1])
    assert parent in sys.path


def test_names_are_shown_before_anything_is_loaded():
    import r2vpo.control
    import r2vpo.llm

    assert {"R2VPO", "ControlConfig"} <= set(dir(r2vpo.control))
    assert {"R2VPOTrainer", "LLMConfig"} <= set(dir(r2vpo.llm))
    assert {"make_objective", "DualController"} <= set(dir(r2vpo))
