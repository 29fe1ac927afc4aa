"""The command itself: a real plan for TPUs that are not here, and its errors."""

import os
import pathlib
import platform
import re
import sys

import pytest

from tests.support import patience
from tests.support.paths import ROOT

TPU_COMPILER = pathlib.Path(sys.prefix) / "tpu_compiler"  # where the Makefile installs libtpu
SMALL = [
    "--config=configs/emoji_tiny.py", "--config.model.num_heads=1", "--config.model.double_blocks=0",
    "--config.model.stage_single_blocks=(1,1)", "--config.model.scan_blocks=True", "--config.model.remat=True",
    "--config.train.stage_batches=((8,4),)", "--config.train.phase_starts=(0.0,)",
    "--config.train.phase_learning_rates=(1e-3,)", "--config.sample.steps=(2,3)", "--config.mesh.fsdp=4",
]  # fmt: skip


def plan(*flags):
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{TPU_COMPILER}"}
    command = [sys.executable, "-m", "nami_jax.plan", *flags]
    return patience.run(command, 600, cwd=ROOT, env=env)


@pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux", reason="libtpu is for Linux on x86-64 alone"
)
def test_a_plan_for_tpus_that_are_not_here():
    run = plan(*SMALL, "--topology=v5e:2x2", "--mfu=0.5", "--price_per_chip_hour=2")
    assert run.returncode == 0, run.stderr
    text = run.stdout
    assert text.startswith("v5e:2x2: 4 devices (TPU v5 lite), arranged as data 1 x fsdp 4 x tensor 1 x sequence 1")
    assert re.search(r"^limit +15\.75$", text, re.MULTILINE)  # GiB, of 16 that a v5e has
    assert re.search(r"^all-gather +\d+ +\d", text, re.MULTILINE)
    assert re.search(r"^reduce-scatter +\d+ +\d", text, re.MULTILINE)
    assert "extrapolated linearly from compilations of 1 and 2 units; a unit is (8, 4) images" in text
    assert "Assuming an MFU of 0.5, and 2.00 USD per chip and hour (8.00 for all)" in text
    assert text.endswith("It fits.\n")
    assert "WARNING" not in run.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--topology=v5e:4x4x4"], "error: topology = 'v5e:4x4x4': v5e has 2 sides. Pass host, or"),
        (["--topology=host", "--mfu=40"], "error: mfu = 40.0: must be above 0 and at most 1. Set e.g. 0.4."),
        (
            ["--topology=host", "--config=configs/autoencoder_emoji.py"],
            "error: config.task = 'autoencoder': only a flow can be planned.",
        ),
    ],
)
def test_errors_end_the_command_without_a_traceback(flags, message):
    run = plan("--config=configs/emoji_tiny.py", *flags)
    assert run.returncode == 1
    assert message in run.stderr
    assert "Traceback" not in run.stderr
