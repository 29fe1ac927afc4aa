import ast
import subprocess
import sys

from tests.support.paths import ROOT

IMPORT = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
print(*sys.modules)
"""


def output(script: str, *arguments: str) -> list[str]:
    run = subprocess.run([sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def test_drawing_pictures_imports_no_training():
    tree = ast.parse((ROOT / "nami_jax" / "sample.py").read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    ours = {name for name in imported if name.startswith("nami_jax.")}
    assert "nami_jax.sampling.pipeline" in ours
    loaded = output(IMPORT, "nami_jax.sample", *sorted(ours))
    assert {"nami_jax.sampling.sampler", "jax"} < set(loaded)
    assert not {name for name in loaded if name.startswith("nami_jax.training")}
