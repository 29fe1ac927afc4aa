"""The package's imports point downwards only, and importing it does nothing."""

import ast
import graphlib
import os
import pathlib
import subprocess
import sys

import pytest

PACKAGE = "nami_jax"
ROOT = pathlib.Path(__file__).parents[1]

# What the foundations may import besides themselves, as first names under the package.
BELOW = {
    "config": set(),
    "flow": {"config"},
    "weights": set(),
    "models": {"config", "weights"},
    "data": {"config", "models", "text"},
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


def first_name(module: str) -> str:
    """Returns the part of `nami_jax.part.rest`, or "" for the package itself."""
    return module.partition(".")[2].partition(".")[0]


TREES = {module_name(path): ast.parse(path.read_text()) for path in sorted((ROOT / PACKAGE).rglob("*.py"))}
IMPORTS = {module: imported_modules(tree, set(TREES)) for module, tree in TREES.items()}
ENTRY_POINTS = {module for module, tree in TREES.items() if "__name__ == '__main__'" in ast.unparse(tree)}


def test_package_is_found():
    assert {f"{PACKAGE}.{part}" for part in BELOW} <= set(TREES)


@pytest.mark.parametrize("part", BELOW)
def test_foundation_imports_only_what_is_below_it(part):
    upward = {
        f"{module} imports {target}"
        for module, targets in IMPORTS.items()
        for target in targets
        if first_name(module) == part and first_name(target) not in BELOW[part] | {part}
    }
    assert not upward


def test_imports_form_no_cycle():
    assert list(graphlib.TopologicalSorter(IMPORTS).static_order())


def test_pipeline_is_imported_by_entry_points_only():
    importers = {module for module, targets in IMPORTS.items() if f"{PACKAGE}.pipeline" in targets}
    assert importers <= ENTRY_POINTS | {PACKAGE}


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
