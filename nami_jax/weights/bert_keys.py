"""Released BERTs: sizes from config.json and weights by the key names of Hugging Face's `BertModel`."""

from collections.abc import Mapping
from typing import Any

from nami_jax.config import require
from nami_jax.models.bert import Bert, BertConfig
from nami_jax.weights.pretrained import Pretrained

# Released beside the encoder and not used here: the [CLS] head, and a buffer that only counts 0, 1, 2, …
UNUSED_KEYS = frozenset({"pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"})
UNUSED_PREFIX = "cls."  # the heads of masked-word and next-sentence prediction

BERT = Pretrained[BertConfig, Bert](
    Bert,
    names={
        "word_embedding": "embeddings.word_embeddings",
        "position_embedding": "embeddings.position_embeddings",
        "segment_embedding": "embeddings.token_type_embeddings",
        "embedding_norm": "embeddings.LayerNorm",
        "layers": "encoder.layer",
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attention_out": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "mlp_in": "intermediate.dense",
        "mlp_out": "output.dense",
        "mlp_norm": "output.LayerNorm",
    },
    known_as=lambda key: key.removeprefix("bert."),  # its prefix in a model with heads
    is_unused=lambda key: key in UNUSED_KEYS or key.startswith(UNUSED_PREFIX),
)
load_bert = BERT.load


def read_bert_config(fields: Mapping[str, Any]) -> BertConfig:
    """Picks the sizes out of a parsed config.json, whose other entries do not change the forward pass.

    Raises:
        ConfigError: a size is missing or out of range, or the file describes a variant that `Bert` does not compute.
    """
    for name, value in (("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
        require(
            fields.get(name, value) == value,
            field=name,
            value=fields.get(name),
            rule=f"only {value!r} is supported",
            remedy="Use another checkpoint",
        )
    return BertConfig.pick(fields)
