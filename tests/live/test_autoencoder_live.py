"""Compares with diffusers itself, at sizes and in directions that the golden file does not have."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from nami_jax.autoencoder.codec import Autoencoder, save_autoencoder
from nami_jax.models.autoencoder_kl import AutoencoderKL
from nami_jax.weights.autoencoder_keys import read_autoencoder_config

torch: Any = pytest.importorskip("torch")
diffusers: Any = pytest.importorskip("diffusers")

SIZES = {
    "released": {
        "block_out_channels": [16, 16, 32],
        "layers_per_block": 2,
        "latent_channels": 16,
        "norm_num_groups": 8,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    "quant": {"block_out_channels": [32, 64], "latent_channels": 4},
    "no attention": {
        "block_out_channels": [8, 16, 16, 24],
        "latent_channels": 3,
        "norm_num_groups": 4,
        "mid_block_add_attention": False,
        "use_quant_conv": False,
    },
}
IMAGE_SHAPES = {"released": (2, 24, 40), "quant": (1, 30, 18), "no attention": (3, 16, 56)}  # (B, H, W)


def from_torch(tensor: Any) -> np.ndarray:
    return tensor.float().numpy().transpose(0, 2, 3, 1)


def to_torch(array: np.ndarray) -> Any:
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


@pytest.mark.parametrize("name", SIZES)
def test_folder_written_by_diffusers_computes_the_same_here(name, tmp_path):
    torch.manual_seed(0)
    count = len(SIZES[name]["block_out_channels"])
    reference = diffusers.AutoencoderKL(
        **SIZES[name], down_block_types=("DownEncoderBlock2D",) * count, up_block_types=("UpDecoderBlock2D",) * count
    ).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.2 * parameter.abs().mean() * torch.randn_like(parameter))
    reference.save_pretrained(tmp_path)
    agree(reference, tmp_path, name)


@pytest.mark.parametrize("name", SIZES)
def test_folder_written_here_computes_the_same_in_diffusers(name, tmp_path):
    model = nnx.jit(lambda: AutoencoderKL(read_autoencoder_config(SIZES[name]), rngs=nnx.Rngs(0)))()
    save_autoencoder(tmp_path, model)
    reference, about = diffusers.AutoencoderKL.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(about.values()), about
    agree(reference, tmp_path, name)


def agree(reference: Any, folder: Path, name: str) -> None:
    """Asserts that moments, latents and images agree, in float32 and in bfloat16."""
    images = np.random.default_rng(0).uniform(-1, 1, (*IMAGE_SHAPES[name], 3)).astype(np.float32)
    mean, logvar, decoded = (from_torch(x) for x in run(reference, to_torch(images)))
    scale, shift = reference.config.scaling_factor, reference.config.shift_factor or 0.0
    scaled = (mean - shift) * scale
    # float32 on both sides: 1e-5 of the largest value is about 80 roundings.
    exact = Autoencoder.from_folder(folder)
    our_mean, our_logvar = nnx.jit(AutoencoderKL.encode)(exact.model, jax.numpy.asarray(images))
    for ours, theirs in ((our_mean, mean), (our_logvar, logvar), (exact.decode(scaled), decoded)):
        np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())

    # Random weights amplify the rounding to bfloat16 the more, the more layers there are: where 2e-2 of the values'
    # size cannot be kept, we are no further off than diffusers in bfloat16.
    rounded = Autoencoder.from_folder(folder, "bfloat16")
    their_mean, _, their_decoded = run(reference.to(torch.bfloat16), to_torch(images).bfloat16(), to_torch(mean))
    for ours, theirs, exactly in (
        (rounded.encode(images) / scale + shift, from_torch(their_mean), mean),
        (rounded.decode(scaled), from_torch(their_decoded), decoded),
    ):
        assert distance(ours, exactly) <= max(2e-2, distance(theirs, exactly))


@torch.no_grad()
def run(reference: Any, images: Any, latents: Any = None) -> tuple[Any, Any, Any]:
    """Returns mean, logvar, and what `latents`, or the mean, decode to."""
    posterior = reference.encode(images).latent_dist
    latents = posterior.mean if latents is None else latents.to(images.dtype)
    return posterior.mean, posterior.logvar, reference.decode(latents).sample


def distance(x: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(x - reference) / np.linalg.norm(reference))
