"""Released CLIPs: sizes from config.json and weights by the key names of Hugging Face's `CLIPModel`."""

from collections.abc import Mapping
from typing import Any

from nami_jax.config import ConfigError, require
from nami_jax.models.clip import Clip, ClipConfig, ClipTextConfig, ClipVisionConfig
from nami_jax.weights.pretrained import Pretrained

UNUSED_KEYS = ("logit_scale", "text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
# By the path of the modules that hold them, since the towers name alike what is released unlike.
PATCHES = "vision_model.embeddings.patch_embedding"


def known_as(key: str) -> str:
    """Returns our path for the parts of the towers whose released names are not those of their modules."""
    return (
        key.replace(PATCHES, f"{PATCHES}.projection")
        .replace("text_model.embeddings.", "text_model.")
        .replace("vision_model.embeddings.", "vision_model.")
    )


CLIP = Pretrained[ClipConfig, Clip](
    Clip,
    names={
        "text_tower": "text_model",
        "vision_tower": "vision_model",
        "word_embedding": "token_embedding",
        "positions": "position_embedding",
        "patches": "patch_embedding",
        "first_norm": "pre_layrnorm",  # so spelt
        "layers": "encoder.layers",
        "norm1": "layer_norm1",
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "attention_out": "self_attn.out_proj",
        "norm2": "layer_norm2",
        "mlp_in": "mlp.fc1",
        "mlp_out": "mlp.fc2",
        "final_norm": "final_layer_norm",
        "post_norm": "post_layernorm",
    },
    known_as=known_as,
    is_unused=lambda key: key in tuple(map(known_as, UNUSED_KEYS)),
)
load_clip = CLIP.load


def read_clip_config(fields: Mapping[str, Any]) -> ClipConfig:
    """Picks the sizes out of a parsed config.json, whose other entries do not change the forward pass.

    Raises:
        ConfigError: a tower's sizes are missing or out of range, or the file is of another network.
    """
    require(
        fields.get("model_type", "clip") == "clip",
        field="model_type",
        value=fields.get("model_type"),
        rule="only 'clip' is supported",
        remedy="Use a CLIP in the Hugging Face layout",
    )
    towers = {}
    for name, kind in (("text_config", ClipTextConfig), ("vision_config", ClipVisionConfig)):
        given = fields.get(name)
        require(
            isinstance(given, Mapping),
            field=name,
            value=given,
            rule="must hold the sizes of the tower",
            remedy="Use the config.json of a whole CLIP, with both towers",
        )
        try:
            towers[name] = kind.pick(given or {})
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
    projection = {"projection_dim": fields["projection_dim"]} if "projection_dim" in fields else {}
    return ClipConfig(**towers, **projection)
