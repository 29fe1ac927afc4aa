"""Released DINOv2s: sizes from config.json and weights by the key names of Hugging Face's `Dinov2Model`."""

from collections.abc import Mapping
from typing import Any

from nami_jax.config import require
from nami_jax.models.dinov2 import Dinov2, Dinov2Config
from nami_jax.weights import Shardings, Tensor
from nami_jax.weights.pretrained import Pretrained

# What transformers 5 calls parts of its attention, and the release.
NEW_NAMES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}
FIRST_AXES = ("embeddings.cls_token", "embeddings.position_embeddings")  # are released with axes of length 1 before


def known_as(key: str) -> str:
    """Returns the release's own key for one that a file may use."""
    key = key.removeprefix("dinov2.")  # its prefix in a model with a head
    for new, released in NEW_NAMES.items():
        key = key.replace(f".{new}.", f".{released}.")
    return key


DINOV2 = Pretrained[Dinov2Config, Dinov2](
    Dinov2,
    names={
        "patches": "embeddings.patch_embeddings",
        "cls_token": "embeddings.cls_token",
        "positions": "embeddings.position_embeddings",
        "layers": "encoder.layer",
        "query": "attention.attention.query",
        "key": "attention.attention.key",
        "value": "attention.attention.value",
        "attention_out": "attention.output.dense",
        "mlp_in": "mlp.fc1",
        "mlp_out": "mlp.fc2",
        "layer_scale1": "layer_scale1.lambda1",
        "layer_scale2": "layer_scale2.lambda1",
        "final_norm": "layernorm",
    },
    is_unused=lambda key: key == "embeddings.mask_token" or key.startswith("classifier."),
)


def load_dinov2(cfg: Dinov2Config, tensors: Mapping[str, Tensor], shardings: Shardings | None = None) -> Dinov2:
    """Builds the network around released weights.

    Raises:
        WeightsError: keys are missing, unexpected or of another shape than `cfg` says; all of them are listed.
    """
    ours: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = known_as(key)
        if name in FIRST_AXES:
            flat = tensor[...]
            tensor = flat.reshape(flat.shape[-1:] if name == FIRST_AXES[0] else flat.shape[-2:])
            name = name if name == FIRST_AXES[0] else f"{name}.weight"
        ours[name] = tensor
    return DINOV2.load(cfg, ours, shardings=shardings)


def read_dinov2_config(fields: Mapping[str, Any]) -> Dinov2Config:
    """Picks the sizes out of a parsed config.json, whose other entries do not change the forward pass.

    Raises:
        ConfigError: a size is out of range, or the file describes a variant that `Dinov2` does not compute.
    """
    fixed = {"model_type": "dinov2", "hidden_act": "gelu", "qkv_bias": True, "use_swiglu_ffn": False, "num_channels": 3}
    for name, value in fixed.items():
        require(
            fields.get(name, value) == value,
            field=name,
            value=fields.get(name),
            rule=f"only {value!r} is supported",
            remedy="Use DINOv2 ViT-S, -B or -L without registers",
        )
    return Dinov2Config.pick(fields)
