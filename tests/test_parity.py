import subprocess
import sys

import pytest

from tests.support.paths import GOLDEN

VECTORS = GOLDEN / "nami_tiny"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        pytest.param((str(VECTORS),), 0, "cpu: 0 vectors above 2e-05", marks=pytest.mark.slow),
        ((str(VECTORS), "--tolerance=1e-12"), 1, "sample.final_latents  ABOVE THE TOLERANCE"),
        (("nowhere",), 1, "error: nowhere: config.json"),
    ],
)
def test_command_fails_above_the_tolerance_and_without_its_files(arguments, code, message):
    command = [sys.executable, "-m", "nami_jax.parity", *arguments]
    run = subprocess.run(command, cwd=VECTORS.parents[2], capture_output=True, text=True)
    assert run.returncode == code, run.stderr
    assert message in run.stdout + run.stderr
    assert "Traceback" not in run.stderr
