"""The notebooks: how they are stored and installed, what they import, and each run from its first cell to its last."""

import ast
import importlib
import os
import re
import resource
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from tests.support import patience, xla
from tests.support.paths import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
REPOSITORY = PROJECT["project"]["urls"]["Repository"]
IN_COLAB = REPOSITORY.replace("https://github.com/", "https://colab.research.google.com/github/")
BADGE = re.compile(r"\]\((https://colab\.research\.google\.com/github/\S+)\)")
EXECUTE = (sys.executable, ROOT / "notebooks" / "execute.py")
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def code(path: Path) -> list[str]:
    """Returns the cells of code, with what begins with ! or % as Python."""
    to_python = TransformerManager().transform_cell
    return [to_python(cell.source) for cell in read(path).cells if cell.cell_type == "code"]


def test_there_are_the_notebooks_that_the_page_lists():
    page = (ROOT / "docs" / "notebooks.md").read_text()
    listed = set(re.findall(r"notebooks/(\w+)\.ipynb", page))
    assert listed == {path.stem for path in NOTEBOOKS}
    assert page.count(f"{IN_COLAB}/blob/main/notebooks/") == len(NOTEBOOKS) == page.count("https://")


@pytest.mark.parametrize("page", ["README.md", "docs/start.md"])
def test_a_page_clones_the_repository_that_the_package_names(page):
    assert f"git clone {REPOSITORY} && cd nami_jax" in (ROOT / page).read_text()


@each_notebook
def test_a_notebook_is_stored_as_a_fresh_one_and_without_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert not cell.metadata
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None), cell.source


@each_notebook
def test_the_badge_opens_this_notebook_of_the_repository_that_is_installed(path):
    found = [address for cell in read(path).cells for address in BADGE.findall(cell.source)]
    assert found == [f"{IN_COLAB}/blob/main/notebooks/{path.name}"]


def test_all_notebooks_install_alike_and_what_the_project_pins():
    cells = {next(cell.source for cell in read(path).cells if "REPOSITORY =" in cell.source) for path in NOTEBOOKS}
    (install,) = {re.sub(r"^NEEDED = .*", "", cell, flags=re.MULTILINE) for cell in cells}
    assert f'REPOSITORY = "{REPOSITORY}"' in install
    assert " ".join(PROJECT["dependency-groups"]["weights"]) in install
    extras = PROJECT["project"]["optional-dependencies"]
    for cell in cells:
        needed = ast.literal_eval(re.findall(r"^NEEDED = (\{.*\})", cell, flags=re.MULTILINE)[0])
        assert set(needed.values()) <= set(extras)


@each_notebook
def test_what_a_notebook_imports_is_there(path):
    nodes = [node for cell in code(path) for node in ast.walk(ast.parse(cell))]
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("nami_jax", "tests"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


@pytest.fixture
def folder():
    """A folder inside the checkout, as `make notebooks` runs them in one."""
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="notebook-") as made:
        yield Path(made)


def written(folder: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell(source) for source in ("from ipywidgets import interact", *sources)]
    path = folder / "written.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raised", "said"), [("1 / 0", "ZeroDivisionError"), ("interact(lambda k: 1 / k, k=0)", "a widget shows an error")]
)
def test_a_notebook_that_fails_says_how_and_keeps_what_it_shows(raised, said, folder):
    path = written(folder, "'before'", raised)
    ran = patience.run([*EXECUTE, path], 600)
    assert ran.returncode == 1
    assert said in ran.stderr
    assert "division by zero" in ran.stderr
    assert read(path).cells[1].outputs[0]["data"] == {"text/plain": "'before'"}


@pytest.mark.slow
def test_what_a_widget_shows_is_kept_and_the_kernel_told_nothing_of_it(folder):
    # Telling it is what makes a notebook hang, once in some five runs: too seldom for a test of that.
    path = written(folder, "shown = interact(lambda k: f'{k} is shown', k=1)", "shown.widget.out.outputs")
    ran = patience.run([*EXECUTE, path], 600)
    assert ran.returncode == 0, ran.stderr
    notebook = read(path)
    assert "1 is shown" in str(notebook.metadata.widgets)
    assert notebook.cells[2].outputs[0]["data"] == {"text/plain": "()"}


def test_a_notebook_that_is_not_there_is_named(tmp_path):
    ran = patience.run([*EXECUTE, tmp_path / "absent.ipynb"], 60)
    assert ran.returncode == 2
    assert f"no such notebook: {tmp_path / 'absent.ipynb'}" in ran.stderr


@pytest.mark.slow
@each_notebook
def test_a_notebook_runs_within_two_minutes_of_two_cores(path, folder):
    # As a reader has it: one device, and none of what is said to jax for the other tests but to compile fast.
    ours = ("JAX_NUMPY_RANK_PROMOTION", "TQDM_MININTERVAL")
    env = {name: value for name, value in os.environ.items() if name not in ours}
    env |= {"PYTHONPATH": str(ROOT), "XLA_FLAGS": xla.flags(devices=1)}
    command = [*EXECUTE, shutil.copy(path, folder)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = patience.run(command, 600, cwd=folder, env=env)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ran.returncode == 0, ran.stderr
    # Of the processor, which counts alike on a busy machine: what no cell may take, all of them together do not.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2 * 120
