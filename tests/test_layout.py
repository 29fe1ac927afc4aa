"""The package's imports point downwards only, and importing it does nothing."""

import ast
import collections
import graphlib
import os
import pathlib
import subprocess
import sys

from tests.support.paths import ROOT

PACKAGE = "nami_jax"

# A folder may import those before it, never those behind it. Files at the top are commands: they import any folder.
FOLDERS = (
    "config terminal files flow models parallel weights text autoencoder checkpoints monitoring data release sampling "
    "evaluation training preparation planning host_checks serving nami1k demo_page"
).split()
APART = {"flow", "models"}  # neither imports the other
PUBLIC_API = {"nami_jax.sampling.pipeline"}  # what a user calls by keyword
LINES = 60  # of a function at most, its docstring not counted
# What is tested beside the package, and what several of its modules do together.
OTHER_TESTS = {
    "benchmarks",
    "faults",
    "launch",
    "live",
    "runs",
    "test_documents.py",
    "test_layout.py",
    "test_notebooks.py",
    "test_package.py",
    "test_site.py",
}

IMPORT_ALL = """
import importlib, sys
from absl import flags

modules, entry_points = (names.split(",") for names in sys.argv[1:])
for module in modules:
    importlib.import_module(module)
ours = [name for name in flags.FLAGS.flags_by_module_dict() if name.startswith("nami_jax")]
assert not ours, f"flags are defined by {ours}"
for module in entry_points:
    importlib.import_module(module)
"""


def module_name(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(tree: ast.Module, known: set[str]) -> set[str]:
    """Returns the modules of `known` that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "imports are absolute"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                found.add(submodule if submodule in known else node.module)
    return found & known


def folder(module: str) -> str:
    """Returns the part of `nami_jax.part.rest`, or "" for the package itself."""
    return module.partition(".")[2].partition(".")[0]


TREES = {module_name(path): ast.parse(path.read_text()) for path in sorted((ROOT / PACKAGE).rglob("*.py"))}
IMPORTS = {module: imported_modules(tree, set(TREES)) for module, tree in TREES.items()}
ENTRY_POINTS = {module for module, tree in TREES.items() if "__name__ == '__main__'" in ast.unparse(tree)}
COMMANDS = {folder(module) for module in ENTRY_POINTS if not module.endswith(".__main__")}


def test_a_file_at_the_top_is_a_command_and_every_folder_stands_in_the_list():
    assert {path.stem for path in (ROOT / PACKAGE).glob("*.py")} - {"__init__"} == COMMANDS
    assert {path.parent.name for path in (ROOT / PACKAGE).glob("*/__init__.py")} == set(FOLDERS)


def test_imports_point_downwards():
    rank = {name: i for i, name in enumerate(FOLDERS)} | dict.fromkeys(COMMANDS, len(FOLDERS))
    upward = {
        f"{module} imports {target}"
        for module, targets in IMPORTS.items()
        if module != PACKAGE
        for target in targets
        if target != PACKAGE and rank[folder(target)] > rank[folder(module)]
    }
    assert not upward


def test_no_two_modules_have_one_name():
    names = collections.Counter(path.stem for path in (ROOT / PACKAGE).rglob("*.py") if path.stem != "__init__")
    assert not [name for name, count in names.items() if count > 1]


def test_no_two_public_classes_have_one_name():
    names = collections.Counter(
        node.name
        for tree in TREES.values()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert not [name for name, count in names.items() if count > 1]


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    found = function.args
    named = [arg.arg for arg in (*found.posonlyargs, *found.args, *found.kwonlyargs) if arg.arg not in ("self", "cls")]
    return named + [arg.arg for arg in (found.vararg, found.kwarg) if arg is not None]


def test_functions_have_at_most_seven_parameters_outside_the_public_api():
    long = {
        f"{module}: {node.name} has {len(parameters(node))}"
        for module, tree in TREES.items()
        if module not in PUBLIC_API
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and len(parameters(node)) > 7
    }
    assert not long


def lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Returns how many lines a function has, without its docstring."""
    assert function.end_lineno is not None
    first = function.body[0]
    has_docstring = ast.get_docstring(function, clean=False) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if has_docstring else 0
    return function.end_lineno - function.lineno + 1 - docstring


def test_functions_are_short():
    beside = [path for name in ("benchmarks", "configs", "tests") for path in (ROOT / name).rglob("*.py")]
    long = {
        f"{module}: {node.name} has {lines(node)} lines"
        for module, tree in {**TREES, **{module_name(path): ast.parse(path.read_text()) for path in beside}}.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines(node) > LINES
    }
    assert not long


def test_the_formatter_lays_out_all_code():
    assert not [path for path in (ROOT / PACKAGE).rglob("*.py") if "fmt: skip" in path.read_text()]


def test_tests_mirror_the_package():
    modules = {path.relative_to(ROOT / PACKAGE) for path in (ROOT / PACKAGE).rglob("*.py")}
    stray = {
        str(test)
        for path in (ROOT / "tests").rglob("test_*.py")
        if (test := path.relative_to(ROOT / "tests")).parts[0] not in OTHER_TESTS
        and test.parent / test.name.removeprefix("test_") not in modules
    }
    assert not stray


def test_flow_and_models_stand_apart():
    pairs = {(folder(module), folder(target)) for module, targets in IMPORTS.items() for target in targets}
    assert not {pair for pair in pairs if set(pair) == APART}


def test_imports_form_no_cycle():
    assert list(graphlib.TopologicalSorter(IMPORTS).static_order())


def test_entry_points_are_imported_by_no_module():
    assert not {module: targets & ENTRY_POINTS for module, targets in IMPORTS.items() if targets & ENTRY_POINTS}


def test_importing_every_module_makes_no_flag_device_or_file(tmp_path):
    # A platform that does not exist: whatever asks jax for a device fails.
    env = os.environ | {"JAX_PLATFORMS": "no_such_platform", "PYTHONPATH": str(ROOT)}
    names = [",".join(sorted(modules)) for modules in (set(TREES) - ENTRY_POINTS, ENTRY_POINTS)]
    command = [sys.executable, "-c", IMPORT_ALL, *names]
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert not list(tmp_path.iterdir())
