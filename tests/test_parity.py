import shutil
import subprocess
import sys

import pytest
from safetensors.numpy import load_file, save_file

from nami_jax.config import ConfigError
from nami_jax.parity import compare
from nami_jax.weights import WeightsError
from tests.support.paths import GOLDEN

VECTORS = GOLDEN / "nami_tiny"
TOLERANCE = 2e-5  # of float32, over 23 guided forward passes that feed one another


def test_every_forward_pass_and_the_whole_sampling_run_agree_with_the_released_model():
    errors = dict(compare(VECTORS))
    assert len(errors) == 3 + 2 * 9 + 1
    assert {name: error for name, error in errors.items() if not error <= TOLERANCE} == {}


def test_a_changed_weight_is_noticed(tmp_path):
    folder = shutil.copytree(VECTORS, tmp_path / "copy")
    tensors = load_file(folder / "transformer.safetensors")
    tensors["single_transformer_blocks.2.proj_out.weight"] *= 1.01
    save_file(tensors, folder / "transformer.safetensors")
    errors = dict(compare(folder))
    assert errors["forward.stage2.velocity"] < TOLERANCE  # the block belongs to stage 3 alone
    assert errors["forward.stage3.velocity"] > TOLERANCE
    assert errors["sample.final_latents"] > TOLERANCE


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"config.json, transformer.safetensors, .* not found"):
        list(compare(tmp_path))


def test_every_key_that_does_not_fit_is_listed_at_once(tmp_path):
    folder = shutil.copytree(VECTORS, tmp_path / "copy")
    tensors = load_file(folder / "transformer.safetensors")
    tensors["left.over"] = tensors.pop("x_embedder.bias")
    tensors["proj_out.weight"] = tensors["proj_out.weight"][:, :-1].copy()
    save_file(tensors, folder / "transformer.safetensors")
    with pytest.raises(WeightsError) as error:
        list(compare(folder))
    for part in ("missing     x_embedder.bias", "unexpected  left.over", "misshapen   proj_out.weight"):
        assert part in str(error.value)


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
