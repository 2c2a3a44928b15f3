"""Which way imports point: everything may import the core; the core imports torch, NumPy and itself."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = sorted((ROOT / "r2vpo").rglob("*.py"))
EXTRAS = ("gymnasium", "mujoco", "transformers", "vllm", "stable_baselines3")
BACKENDS = ("envs", "llm", "control")
ALLOWED = {
    *sys.stdlib_module_names,
    "torch",
    "numpy",
    "packaging",
    "annotated_types",
    "lazy_loader",
    "filelock",
    "rich",
    "r2vpo",
}
ALLOWED_WHEN_USED = {"matplotlib", "tensorboard", "tyro", "yaml", "wandb", "mlflow", "trackio", "huggingface_hub"}


def module_name(path):
    """Import name of a file in the tree: ``control/learner.py`` is ``r2vpo.control.learner``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "r2vpo" else ("r2vpo", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """Every imported name, ``a.b`` for ``from a import b``, and whether importing the file imports it."""
    tree = ast.parse(path.read_text())
    package = module_name(path).split(".")
    package = package if path.name == "__init__.py" else package[:-1]

    def visit(node, at_import):
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield from ((f"{module}.{alias.name}", at_import) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in ast.iter_child_nodes(node):
                yield from visit(child, False)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from visit(child, at_import and not inside)

    return list(visit(tree, True))


def of_backend(name, backend):
    return f"{name}.".startswith(f"r2vpo.{backend}.")


def test_fresh_process_loads_no_extra():
    modules = [module_name(path) for path in CORE]
    code = "import importlib, json, sys\n"
    code += f"for name in {modules}: importlib.import_module(name)\n"
    code += "print(json.dumps(list(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = json.loads(run.stdout)
    assert set(modules) <= set(loaded)
    assert not {name.split(".")[0] for name in loaded} & set(EXTRAS)
    assert not [name for name in loaded for backend in BACKENDS if of_backend(name, backend)]


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_core_imports_torch_numpy_and_the_standard_library(path):
    when_used = ALLOWED | ALLOWED_WHEN_USED
    # The command line's own modules load when their command is called, and not before.
    when_imported = when_used if path.stem in ("cli", "plot_command", "hub") else ALLOWED
    for name, at_import in imports(path):
        assert name.split(".")[0] in (when_imported if at_import else when_used), name


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_core_does_not_import_a_backend(path):
    for name, at_import in imports(path):
        assert not (at_import and any(of_backend(name, backend) for backend in BACKENDS)), name


FORBIDDEN = [("control", "llm"), ("llm", "control"), ("envs", "llm"), ("envs", "control")]


@pytest.mark.parametrize(("folder", "other"), FORBIDDEN)
def test_backends_do_not_import_each_other(folder, other):
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    assert not [(path.name, name) for path in paths for name, _ in imports(path) if of_backend(name, other)]


def test_every_way_of_writing_an_import_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    path = tmp_path / "control" / "deep" / "module.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import a.b, c\n"
        "from d import e\n"
        "from r2vpo import llm\n"
        "from ...llm import trainer\n"
        "from . import sibling\n"
        "try:\n    import f\nexcept ImportError:\n    pass\n"
        "class C:\n    import g\n    def method(self):\n        import h\n"
        "if TYPE_CHECKING:\n    import i\n"
        "async def coroutine():\n    from j import k\n"
    )
    at_import = ["a.b", "c", "d.e", "r2vpo.llm", "r2vpo.llm.trainer", "r2vpo.control.deep.sibling", "f", "g"]
    later = ["h", "i", "j.k"]
    assert imports(path) == [(name, True) for name in at_import] + [(name, False) for name in later]


@pytest.mark.parametrize("package", ["r2vpo", "r2vpo.control", "r2vpo.llm", "r2vpo.llm.rewards"])
def test_public_names_are_listed_and_load_on_first_use(package):
    code = (
        f"import sys, {package} as package\n"
        "assert set(package.__all__) <= set(dir(package)), dir(package)\n"
        "assert 'torch' not in sys.modules\n"
        "for name in package.__all__: getattr(package, name)\n"
        "assert not hasattr(package, 'no_such_name')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
