"""Writes features.safetensors beside this script: what DINOv2 and CLIP of `transformers` compute, for tests.

It holds a small random network of each whole: weights, inputs and features. Needs an environment with torch,
transformers and safetensors, and the repository's root as the current folder:

    python tests/golden/make_features.py
"""
# pyright: reportMissingImports=false

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

DINOV2 = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 3,
    "image_size": 28,
    "patch_size": 7,
}
TOWER = {"hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
CLIP = {
    "projection_dim": 12,
    "text_config": TOWER
    | {"vocab_size": 30, "max_position_embeddings": 8, "bos_token_id": 28, "eos_token_id": 29, "hidden_act": "gelu"},
    "vision_config": TOWER | {"image_size": 24, "patch_size": 8, "hidden_act": "quick_gelu"},
}


def scatter(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Moves every parameter far from where it starts and returns all of them."""
    for parameter in model.parameters():
        spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
        parameter.add_(2 * spread * torch.randn_like(parameter))
    return {key: tensor.contiguous() for key, tensor in model.eval().state_dict().items()}


def pixels(images: torch.Tensor, mean: list[float], deviation: list[float]) -> torch.Tensor:
    levels = images.permute(0, 3, 1, 2).float() / 255
    return (levels - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    dinov2, clip = Dinov2Model(Dinov2Config(**DINOV2)), CLIPModel(CLIPConfig(**CLIP))
    tensors = {f"dinov2.weights.{key}": tensor for key, tensor in scatter(dinov2).items()}
    tensors |= {f"clip.weights.{key}": tensor for key, tensor in scatter(clip).items()}
    # Larger than DINOv2 was trained on: its table of positions is resized.
    images = {side: torch.randint(0, 256, (3, side, side, 3), dtype=torch.uint8) for side in (42, 24)}
    ids = torch.tensor([[28, 3, 7, 29, 0, 0], [28, 29, 0, 0, 0, 0], [28, 5, 9, 4, 1, 29]])
    mask = (torch.arange(6) < torch.tensor([[4], [2], [6]])).long()
    tensors["dinov2.images"], tensors["clip.images"] = images[42], images[24]
    imagenet = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    own = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    tensors["dinov2.features"] = dinov2(pixels(images[42], *imagenet)).pooler_output
    tensors["clip.image_features"] = clip.get_image_features(pixels(images[24], *own)).pooler_output
    tensors["clip.ids"], tensors["clip.mask"] = ids.to(torch.int32), mask.to(torch.int32)
    tensors["clip.text_features"] = clip.get_text_features(ids, attention_mask=mask).pooler_output
    metadata = {"dinov2": json.dumps(DINOV2), "clip": json.dumps(CLIP)}
    save_file(
        {key: tensor.contiguous() for key, tensor in tensors.items()},
        Path(__file__).with_name("features.safetensors"),
        metadata,
    )


if __name__ == "__main__":
    main()
