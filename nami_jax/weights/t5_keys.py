"""Released T5 encoders: sizes from config.json and weights by the key names of Hugging Face's `T5EncoderModel`."""

from collections.abc import Mapping
from typing import Any

from nami_jax.config import require
from nami_jax.models.t5 import T5Config, T5Encoder
from nami_jax.weights.pretrained import Pretrained

# Released beside the encoder in a full T5, and not used here; the embedding's second name is the same tensor again.
DECODER_PREFIXES = ("decoder.", "lm_head.")
UNUSED_PREFIXES = (*DECODER_PREFIXES, "encoder.embed_tokens.")

T5 = Pretrained[T5Config, T5Encoder](
    T5Encoder,
    names={
        "word_embedding": "shared",
        # One table, kept in the first layer and used by all.
        "position_bias": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        "layers": "encoder.block",
        "attention_norm": "layer.0.layer_norm",
        "query": "layer.0.SelfAttention.q",
        "key": "layer.0.SelfAttention.k",
        "value": "layer.0.SelfAttention.v",
        "attention_out": "layer.0.SelfAttention.o",
        "mlp_norm": "layer.1.layer_norm",
        "mlp_gate": "layer.1.DenseReluDense.wi_0",
        "mlp_in": "layer.1.DenseReluDense.wi_1",
        "mlp_out": "layer.1.DenseReluDense.wo",
        "final_norm": "encoder.final_layer_norm",
    },
    is_unused=lambda key: key.startswith(UNUSED_PREFIXES),
)
load_t5 = T5.load


def read_t5_config(fields: Mapping[str, Any]) -> T5Config:
    """Picks the sizes out of a parsed config.json, whose other entries do not change the forward pass.

    Raises:
        ConfigError: a size is missing or out of range, or the file describes a variant that `T5Encoder` does not
            compute.
    """
    model_type, projection = fields.get("model_type", "t5"), fields.get("feed_forward_proj", "relu")
    require(
        model_type in ("t5", "mt5"),  # UMT5 has the same sizes, but a position bias in every layer
        field="model_type",
        value=model_type,
        rule="only 't5' and 'mt5' are supported",
        remedy="Use another checkpoint",
    )
    require(
        projection == "gated-gelu",
        field="feed_forward_proj",
        value=projection,
        rule="only 'gated-gelu' is supported",
        remedy="Use T5 version 1.1 or mT5",
    )
    return T5Config.pick(fields)
