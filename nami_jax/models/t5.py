"""The T5 text encoder: token ids in, one state per token out.

It runs frozen, so dropout and T5's decoder are left out. Sizes and weights are those of any `T5EncoderModel` or
`MT5EncoderModel` of version 1.1 in the Hugging Face layout; the released NAMI takes its token states from mT5-XXL.
"""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from nami_jax.config import ConfigError, Settings
from nami_jax.config.settings import Entries, Epsilon, Layers, Width, settings
from nami_jax.models.attention import attention

TAKE_CONFIG = "Use the checkpoint's own config.json"


@settings(remedy=TAKE_CONFIG)
class T5Config(Settings):
    """Sizes of a T5 encoder, under the names of the released config.json."""

    vocab_size: Entries
    d_model: Width  # D
    d_kv: Width  # channels of one attention head; N d_kv need not be D
    d_ff: Width  # width inside the MLP
    num_layers: Layers
    num_heads: Width  # N
    relative_attention_num_buckets: Width = 32  # half of them for tokens before, half for tokens after
    relative_attention_max_distance: Entries = 128  # tokens; all that are farther share the last bucket
    layer_norm_epsilon: Epsilon = 1e-6

    def __post_init__(self) -> None:
        buckets, distance = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if buckets < 4 or buckets % 2 or distance <= buckets // 4:
            raise ConfigError(
                f"relative_attention_num_buckets = {buckets}, relative_attention_max_distance = {distance}: need an "
                "even number of at least 4 buckets, and a distance above a quarter of it. "
                f"{TAKE_CONFIG} for both."
            )


class T5Layer(nnx.Module):
    """Self-attention, then a gated MLP, each of its normalised input and added to it (pre-norm, no biases).

    Raffel et al., arXiv 1910.10683, sec. 2.1; the gate is GEGLU of arXiv 2002.05202.
    """

    def __init__(self, cfg: T5Config, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs):
        width, inner = cfg.d_model, cfg.num_heads * cfg.d_kv
        self.num_heads = cfg.num_heads
        self.attention_norm = rms_norm(cfg, rngs)
        self.query = nnx.Linear(width, inner, use_bias=False, dtype=dtype, rngs=rngs)
        self.key = nnx.Linear(width, inner, use_bias=False, dtype=dtype, rngs=rngs)
        self.value = nnx.Linear(width, inner, use_bias=False, dtype=dtype, rngs=rngs)
        self.attention_out = nnx.Linear(inner, width, use_bias=False, dtype=dtype, rngs=rngs)
        self.mlp_norm = rms_norm(cfg, rngs)
        self.mlp_gate = nnx.Linear(width, cfg.d_ff, use_bias=False, dtype=dtype, rngs=rngs)
        self.mlp_in = nnx.Linear(width, cfg.d_ff, use_bias=False, dtype=dtype, rngs=rngs)
        self.mlp_out = nnx.Linear(cfg.d_ff, width, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, states: jax.Array, bias: jax.Array, key_mask: jax.Array | None) -> jax.Array:
        """Maps states (B, T, D) to states (B, T, D), float32.

        Args:
            states: (B, T, D) float32.
            bias: added to the attention logits, (1, N, T, T) float32.
            key_mask: (B, 1, 1, T), true at tokens to attend to; None: all.
        """
        normed = self.attention_norm(states)
        query, key, value = (
            rearrange(project(normed), "b t (n h) -> b t n h", n=self.num_heads)
            for project in (self.query, self.key, self.value)
        )
        # Logits are not scaled: T5's initialisation has that factor in the queries. The softmax is in float32.
        attended = attention(query, key, value, bias, key_mask, scale=1.0)  # (B, T, N, H)
        states = states + self.attention_out(rearrange(attended, "b t n h -> b t (n h)"))
        normed = self.mlp_norm(states)
        hidden = jax.nn.gelu(self.mlp_gate(normed), approximate=True) * self.mlp_in(normed)  # trained with tanh's GELU
        return states + self.mlp_out(hidden)


class T5Encoder(nnx.Module):
    """Word embeddings, `num_layers` layers that share one bias by relative position, and a last norm.

    States pass from layer to layer in float32 whatever the compute type: those of a trained mT5 grow to thousands,
    where bfloat16 would lose what a layer adds.
    """

    def __init__(self, cfg: T5Config, *, dtype: jax.typing.DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.cfg = cfg
        self.word_embedding = nnx.Embed(cfg.vocab_size, cfg.d_model, rngs=rngs)
        self.position_bias = nnx.Embed(cfg.relative_attention_num_buckets, cfg.num_heads, rngs=rngs)
        self.layers = nnx.List([T5Layer(cfg, dtype=dtype, rngs=rngs) for _ in range(cfg.num_layers)])
        self.final_norm = rms_norm(cfg, rngs)

    def __call__(self, token_ids: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Encodes one text per row.

        Args:
            token_ids: (B, T) int32 in [0, vocab_size).
            mask: (B, T), nonzero at real tokens: no token attends to the others, but states are computed for them too.
                None: padding is a token like any other.

        Returns:
            The states after the last norm, (B, T, D) float32.
        """
        # The rows are picked first and then made float32: `nnx.Embed` would do so to the whole table, 4 GB in mT5-XXL.
        states = jnp.take(self.word_embedding.embedding[...], token_ids, axis=0).astype(jnp.float32)  # (B, T, D)
        bias = self.position_bias(jnp.asarray(relative_buckets(self.cfg, token_ids.shape[1])))  # (T, T, N)
        bias = rearrange(bias, "q k n -> 1 n q k").astype(jnp.float32)
        key_mask = None if mask is None else mask.astype(bool)[:, None, None, :]
        for layer in self.layers:
            states = layer(states, bias, key_mask)
        return self.final_norm(states)


def rms_norm(cfg: T5Config, rngs: nnx.Rngs) -> nnx.RMSNorm:
    """Makes a float32 RMS norm, which has a scale, takes off no mean and adds no bias."""
    return nnx.RMSNorm(cfg.d_model, epsilon=cfg.layer_norm_epsilon, dtype=jnp.float32, rngs=rngs)


def relative_buckets(cfg: T5Config, length: int) -> np.ndarray:
    """Sorts the distance between every two of `length` tokens into buckets.

    Half of the buckets are for keys at or before the query, half for keys after it. Of each half, the first half hold
    one distance each, the others ranges that grow by a constant factor up to the largest distance.

    Returns:
        (T, T) int32 in [0, relative_attention_num_buckets): row = position of the query, column = of the key.
        Raffel et al., arXiv 1910.10683, sec. 2.1.
    """
    side = cfg.relative_attention_num_buckets // 2
    exact = side // 2
    distance = np.arange(length)
    octaves = np.log(np.maximum(distance, 1) / exact) / np.log(cfg.relative_attention_max_distance / exact)
    # Where a range begins (64 = 8 · 16^(3/4)) the product is whole: rounding must not put it just below.
    ranged = exact + np.floor(octaves * (side - exact) + 1e-9).astype(np.int32)
    bucket = np.where(distance < exact, distance, np.minimum(ranged, side - 1))
    offset = distance[None, :] - distance[:, None]  # (T, T), above 0: the key is after the query
    return (bucket[abs(offset)] + side * (offset > 0)).astype(np.int32)
