"""Writes autoencoder.safetensors beside this script: what diffusers' AutoencoderKL computes, for tests to compare with.

It holds two small random autoencoders whole: weights, an image with the moments of its latents, latents with the image
they decode to. Needs an environment of its own with torch, diffusers and safetensors:

    python tests/golden/make_autoencoder.py
"""
# pyright: reportMissingImports=false

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

# Between them: attention or none, quant convolutions or none, a shift or none, one block a resolution or two.
CONFIGS = {
    "attention": {
        "block_out_channels": (8, 12),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    "quant": {
        "block_out_channels": (4, 8),
        "layers_per_block": 2,
        "latent_channels": 3,
        "norm_num_groups": 2,
        "mid_block_add_attention": False,
    },
}
SIZES = {"attention": (16, 24), "quant": (18, 22)}  # pixels; the latter's latents have odd sides


def make_model(fields: dict) -> AutoencoderKL:
    """Returns a random model in which every parameter matters, attention is sharp and no norm is the identity."""
    count = len(fields["block_out_channels"])
    types = {"down_block_types": ("DownEncoderBlock2D",) * count, "up_block_types": ("UpDecoderBlock2D",) * count}
    model = AutoencoderKL(**fields, **types).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            parameter.add_(0.3 * torch.randn_like(parameter))
        if "to_q" in name or "to_k" in name:
            parameter.mul_(3.0)
    return model


def vectors(name: str) -> dict[str, torch.Tensor]:
    """Returns weights and vectors of one model; images and latents are (B, channels, height, width)."""
    model = make_model(CONFIGS[name])
    height, width = SIZES[name]
    images = 2.0 * torch.rand(2, 3, height, width) - 1.0
    posterior = model.encode(images).latent_dist
    latents = 2.0 * torch.randn_like(posterior.mean)
    tensors = {f"weights.{key}": tensor for key, tensor in model.state_dict().items()}
    tensors |= {"images": images, "mean": posterior.mean, "logvar": posterior.logvar}
    tensors |= {"latents": latents, "decoded": model.decode(latents).sample}
    return {f"{name}.{key}": tensor.contiguous() for key, tensor in tensors.items()}


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    tensors = vectors("attention") | vectors("quant")
    save_file(tensors, Path(__file__).with_name("autoencoder.safetensors"), {"configs": json.dumps(CONFIGS)})


if __name__ == "__main__":
    main()
