"""The command itself: real plans for TPUs and GPUs that are not here, and its errors."""

import os
import pathlib
import platform
import re
import subprocess
import sys

import pytest

from nami_jax.planning.gpu_targets import CARDS
from tests.support import patience
from tests.support.paths import ROOT

TPU_COMPILER = pathlib.Path(sys.prefix) / "tpu_compiler"  # where the Makefile installs libtpu
GPU_COMPILER = pathlib.Path(sys.prefix) / "gpu_compiler"  # and, for `make gpu-check`, jax's CUDA plugin and cuDNN
SMALL = [
    "--config=configs/emoji_tiny.py", "--config.model.num_heads=1", "--config.model.double_blocks=0",
    "--config.model.stage_single_blocks=(1,1)", "--config.model.scan_blocks=True", "--config.model.remat=True",
    "--config.train.stage_batches=((8,4),)", "--config.train.phase_starts=(0.0,)",
    "--config.train.phase_learning_rates=(1e-3,)", "--config.sample.steps=(2,3)", "--config.mesh.fsdp=4",
    "--config.model.rope_axes=(16,56,56)",  # heads of 128 channels, as the kernels take them
]  # fmt: skip


def plan(*flags):
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{TPU_COMPILER}:{GPU_COMPILER}"}
    command = [sys.executable, "-m", "nami_jax.plan", *flags]
    return patience.run(command, 600, cwd=ROOT, env=env)


def attention_rows(text):
    """Returns kernel and weights of the training step and of each stage, whose calls are counted."""
    rows = re.findall(r"^(?:step of training|stage \d of pictures) +(\S.*?)  +(\d+|-)  +(\S.*)$", text, re.MULTILINE)
    assert all((calls == "-") == (kernel == "XLA's own") for kernel, calls, _ in rows)
    return [(kernel, weights) for kernel, _, weights in rows]


def assert_bounds(text, tera, attention):
    """Checks the bounds of the training step and of two stages, and how often at least attention is listed."""
    bounds = re.findall(
        r"^(?:step of training|stage \d of pictures)" + r" +(\d\S*)" * 6 + r" +(\S+)$",
        text.partition("no faster than")[2],
        re.MULTILINE,
    )
    assert len(bounds) == 3
    for row in bounds:
        products, memory, operations, links, waiting, together = map(float, row[:6])
        assert max(products, memory) <= 1.01 * together  # three digits are printed
        assert products <= 1.01 * operations
        assert waiting <= 1.01 * links
        assert together == pytest.approx(max(operations + waiting, memory), rel=0.02)
        assert row[6] == "-" or float(row[6]) > products
    assert f" {tera} TFLOP/s of products" in text
    assert len(re.findall(r"^attention by \S+ .* (?:products|memory)$", text, re.MULTILINE)) >= attention
    assert re.search(r"this step's MFU is at most 0\.\d\d;", text)


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
    assert attention_rows(text) == [("splash", "none")] * 3
    assert "extrapolated linearly from compilations of 1 and 2 units; a unit is (8, 4) images" in text
    assert "Assuming an MFU of 0.5, and 2.00 USD per chip and hour (8.00 for all)" in text
    assert_bounds(text, 197, attention=2)
    assert text.endswith("It fits.\n")
    assert "WARNING" not in run.stderr


gpu_compiler = pytest.mark.skipif(
    not (GPU_COMPILER / "nvidia" / "cudnn").is_dir(),
    reason="the compiler for GPUs is not installed: run `make gpu-check`",
)


@gpu_compiler
@pytest.mark.slow
@pytest.mark.parametrize(("topology", "kind"), [("h100:4", "H100 80GB HBM3"), ("a100-40gb:2x2", "A100-SXM4-40GB")])
def test_a_plan_for_gpus_that_are_not_here(topology, kind):
    run = plan(*SMALL, "--config.model.dtype=bfloat16", f"--topology={topology}")
    assert run.returncode == 0, run.stderr
    text = run.stdout
    assert text.startswith(
        f"{topology}: 4 devices (NVIDIA {kind}), arranged as data 1 x fsdp 4 x tensor 1 x sequence 1"
    )
    assert attention_rows(text) == [("cuDNN's", "none")] * 3
    assert re.search(r"^all-gather +\d+ +\d", text, re.MULTILINE)
    # In a step as small as this there are longer operations.
    assert_bounds(text, 989 if "h100" in topology else 312, attention=1)
    assert "USD per chip and hour" in text
    assert text.endswith("It fits.\n")


@gpu_compiler
@pytest.mark.slow
def test_a_plan_for_gpus_says_where_attention_keeps_its_weights():
    run = plan(*SMALL, "--config.model.dtype=float32", "--topology=h100:4")  # cuDNN's kernel takes no float32
    assert run.returncode == 0, run.stderr
    kernels, weights = zip(*attention_rows(run.stdout), strict=True)
    assert kernels == ("XLA's own",) * 3
    assert all("f32[" in found for found in weights)


@pytest.mark.parametrize("card", CARDS)
def test_make_plans_for_every_card_with_the_compiler_for_gpus(card):
    command = ["make", "--dry-run", "plan", f"TOPOLOGY={card}:8x2"]
    recipe = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(r'PYTHONPATH="[^"]*gpu_compiler" .* --topology "' + card, recipe)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--topology=v5e:4x4x4"], "error: topology = 'v5e:4x4x4': v5e has 2 sides. Pass host, or"),
        (
            ["--topology=h100:16"],
            "error: topology = 'h100:16': a host has at most 8 GPUs. Pass GPUs of a host x hosts, e",
        ),
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
