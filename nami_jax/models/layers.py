"""The small parts that every block shares: linear maps with a compute type, modulation, time and pooled embeddings."""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nami_jax.config import ModelConfig

TIME_CHANNELS = 256  # sines and cosines of the time embedding
TIME_SCALE = 1000.0  # the embedding sees 1000 t


def linear(cfg: ModelConfig, inputs: int, outputs: int, rngs: nnx.Rngs, zero: bool = False) -> nnx.Linear:
    """Builds a linear layer with float32 parameters that computes in `cfg.dtype`; `zero` starts its kernel at 0."""
    init = nnx.initializers.zeros_init() if zero else nnx.initializers.lecun_normal()
    return nnx.Linear(inputs, outputs, kernel_init=init, dtype=jnp.dtype(cfg.dtype), rngs=rngs)


def adaptable(cfg: ModelConfig, inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    """Builds a linear layer of a block, with a low-rank pair beside its kernel if `cfg.lora_rank` is set.

    The pair starts as a product of 0, so that the network begins as it was trained. LoRA, arXiv 2106.09685.
    """
    if cfg.lora_rank is None:
        return linear(cfg, inputs, outputs, rngs)
    dtype = jnp.dtype(cfg.dtype)
    return nnx.LoRALinear(inputs, outputs, lora_rank=cfg.lora_rank, dtype=dtype, lora_dtype=dtype, rngs=rngs)


def apply_to_parts(layer: nnx.Linear, parts: Sequence[jax.Array], join: bool) -> jax.Array:
    """Applies a linear layer to arrays that together are its input.

    Args:
        layer: made by `adaptable`.
        parts: (B, L, inputs_i), whose last axes make up the layer's inputs.
        join: concatenate them; if not, the result is a sum of products, and nothing so wide is written.

    Returns:
        (B, L, outputs), in the compute type.
    """
    if join:
        return layer(jnp.concatenate(parts, axis=-1))
    ends = list(itertools.accumulate(part.shape[-1] for part in parts))

    def product(kernel: jax.Array) -> jax.Array:
        rows = jnp.split(kernel.astype(layer.dtype), ends[:-1])
        products = (part.astype(layer.dtype) @ some for part, some in zip(parts, rows, strict=True))
        return functools.reduce(jnp.add, products)

    assert layer.bias is not None
    result = product(layer.kernel[...]) + layer.bias[None, None].astype(layer.dtype)
    if isinstance(layer, nnx.LoRALinear):
        result = result + product(layer.lora.lora_a[...]) @ layer.lora.lora_b[...].astype(layer.dtype)
    return result


def layer_norm(x: jax.Array) -> jax.Array:
    """Normalises the last axis to mean 0 and variance 1 without parameters, in float32 (epsilon 1e-6)."""
    x = x.astype(jnp.float32)
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + 1e-6)


def affine_norm(width: int, epsilon: float, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Makes a float32 LayerNorm with a scale and a bias, as released encoders have it.

    Its variance is the two-pass one, since E[x²] - E[x]² loses digits.
    """
    return nnx.LayerNorm(width, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns layer_norm(x) (1 + scale) + shift, for x (B, L, D) and shift, scale (B, 1, D), in x's dtype."""
    return (layer_norm(x) * (1 + scale) + shift).astype(x.dtype)


class Modulation(nnx.Module):
    """Maps the conditioning vector to `count` modulation vectors (adaLN, arXiv 2212.09748)."""

    def __init__(self, cfg: ModelConfig, count: int, *, rngs: nnx.Rngs):
        # Zero at the start: every gate is 0, so each block begins as the identity and training is stable.
        self.linear = linear(cfg, cfg.width, count * cfg.width, rngs, zero=True)
        self.count = count

    def __call__(self, conditioning: jax.Array) -> jax.Array:
        """Maps (B, D) to the vectors one after another (B, count D), in the compute type, which `vectors` reads."""
        return self.linear(nnx.silu(conditioning))

    def vectors(self, modulation: jax.Array) -> list[jax.Array]:
        """Splits (B, count D) into `count` arrays (B, 1, D), float32."""
        return jnp.split(modulation.astype(jnp.float32)[:, None, :], self.count, axis=-1)


class Embedder(nnx.Module):
    """Two linear layers that bring time or the pooled text to the width of the network."""

    def __init__(self, cfg: ModelConfig, inputs: int, *, rngs: nnx.Rngs):
        self.linear_1 = linear(cfg, inputs, cfg.width, rngs)
        self.linear_2 = linear(cfg, cfg.width, cfg.width, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, inputs) to (B, D)."""
        return self.linear_2(nnx.silu(self.linear_1(x)))


def time_waves(t: jax.Array) -> jax.Array:
    """Maps global times (B,) in [0, 1], 1 = noise, to cosines and sines (B, 256), float32."""
    half = TIME_CHANNELS // 2
    frequencies = np.exp(-np.log(10000.0) * np.arange(half) / half).astype(np.float32)
    angles = TIME_SCALE * t.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
