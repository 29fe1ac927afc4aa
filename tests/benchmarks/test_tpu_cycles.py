import os
import pathlib
import platform
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

TPU_COMPILER = pathlib.Path(sys.prefix) / "tpu_compiler"  # where the Makefile installs libtpu


@pytest.mark.slow
@pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux", reason="libtpu is for Linux on x86-64 alone"
)
def test_products_are_named_with_their_share_of_a_small_stage():
    command = [sys.executable, "-m", "benchmarks.tpu_cycles", "--config", "configs/emoji_tiny.py", "--stage=1"]
    env = os.environ | {"PYTHONPATH": str(TPU_COMPILER), "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert float(next(line for line in lines if line.startswith("all but kernels")).split()[-1]) > 0
    assert any(line.startswith("dot_general (fusion)") for line in lines)
