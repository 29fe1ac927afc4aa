"""The BERT text encoder: token ids in, one state per token out.

It runs frozen, so dropout and the heads trained on top of BERT (pooler, masked-word prediction) are left out. Sizes and
weights are those of any `BertModel` released in the Hugging Face layout: MiniLM (384 wide) here, the 1024-wide text
tower of HunyuanDiT's bilingual CLIP by its config.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from nami_jax.config import Settings, require
from nami_jax.config.settings import Entries, Epsilon, Layers, Width, settings
from nami_jax.models.attention import attention
from nami_jax.models.layers import affine_norm

TAKE_CONFIG = "Use the checkpoint's own config.json"


@settings(remedy=TAKE_CONFIG)
class BertConfig(Settings):
    """Sizes of a BERT encoder, under the names of the released config.json."""

    vocab_size: Entries
    hidden_size: Width  # D
    num_hidden_layers: Layers
    num_attention_heads: Width  # N
    intermediate_size: Width  # width inside the MLP
    max_position_embeddings: Entries  # longest sequence, tokens
    type_vocab_size: Entries = 2
    layer_norm_eps: Epsilon = 1e-12

    def __post_init__(self) -> None:
        require(
            self.hidden_size % self.num_attention_heads == 0,
            field="hidden_size",
            value=self.hidden_size,
            rule=f"must be a multiple of num_attention_heads = {self.num_attention_heads}",
            remedy=f"{TAKE_CONFIG} for both",
        )


class BertLayer(nnx.Module):
    """Self-attention, then an MLP, each added to its input and normalised after the sum (post-norm).

    Devlin et al., arXiv 1810.04805, on Vaswani et al., arXiv 1706.03762, sec. 3.1.
    """

    def __init__(self, cfg: BertConfig, *, dtype: jax.typing.DTypeLike, rngs: nnx.Rngs):
        width, hidden = cfg.hidden_size, cfg.intermediate_size
        self.num_heads = cfg.num_attention_heads
        self.query = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.key = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.value = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.attention_out = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.attention_norm = affine_norm(width, cfg.layer_norm_eps, rngs)
        self.mlp_in = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.mlp_out = nnx.Linear(hidden, width, dtype=dtype, rngs=rngs)
        self.mlp_norm = affine_norm(width, cfg.layer_norm_eps, rngs)

    def __call__(self, states: jax.Array, key_mask: jax.Array) -> jax.Array:
        """Maps states (B, T, D) to states (B, T, D); `key_mask` (B, 1, 1, T) is true at tokens to attend to."""
        query, key, value = (
            rearrange(project(states), "b t (n h) -> b t n h", n=self.num_heads)
            for project in (self.query, self.key, self.value)
        )
        attended = attention(query, key, value, mask=key_mask)  # (B, T, N, H), softmax in float32
        attended = self.attention_out(rearrange(attended, "b t n h -> b t (n h)"))
        states = self.attention_norm(states + attended)
        # The exact GELU: its tanh approximation is off by up to 5e-4, which BERT was not trained with.
        hidden = jax.nn.gelu(self.mlp_in(states), approximate=False)
        return self.mlp_norm(states + self.mlp_out(hidden))


class Bert(nnx.Module):
    """Embeddings of word, position and segment, then `num_hidden_layers` layers. arXiv 1810.04805, sec. 3."""

    def __init__(self, cfg: BertConfig, *, dtype: jax.typing.DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.cfg = cfg
        self.word_embedding = nnx.Embed(cfg.vocab_size, cfg.hidden_size, rngs=rngs)
        self.position_embedding = nnx.Embed(cfg.max_position_embeddings, cfg.hidden_size, rngs=rngs)
        self.segment_embedding = nnx.Embed(cfg.type_vocab_size, cfg.hidden_size, rngs=rngs)
        self.embedding_norm = affine_norm(cfg.hidden_size, cfg.layer_norm_eps, rngs)
        self.layers = nnx.List([BertLayer(cfg, dtype=dtype, rngs=rngs) for _ in range(cfg.num_hidden_layers)])

    def __call__(self, token_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """Encodes one segment of text per row.

        Args:
            token_ids: (B, T) int32 in [0, vocab_size), T at most `max_position_embeddings`.
            attention_mask: (B, T), nonzero at real tokens. No token attends to padding, but states are computed for
                padding too.

        Returns:
            The last layer's states, (B, T, D) float32.

        Raises:
            ValueError: T is longer than the position table.
        """
        length = token_ids.shape[1]
        if length > self.cfg.max_position_embeddings:
            raise ValueError(
                f"token_ids have length {length}: this BERT has {self.cfg.max_position_embeddings} positions. "
                "Shorten the text window."
            )
        position = self.position_embedding(jnp.arange(length))[None]  # (1, T, D)
        segment = self.segment_embedding(jnp.zeros((1, 1), jnp.int32))  # (1, 1, D): all text is the first segment
        states = self.embedding_norm(self.word_embedding(token_ids) + position + segment)  # (B, T, D)
        key_mask = attention_mask.astype(bool)[:, None, None, :]
        for layer in self.layers:
            states = layer(states, key_mask)
        return states
