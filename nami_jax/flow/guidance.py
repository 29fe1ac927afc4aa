"""Classifier-free guidance (arXiv 2207.12598): one batch holds the prompts and then their negative prompts."""

import jax
import jax.numpy as jnp


def double(x: jax.Array) -> jax.Array:
    """Repeats latents for both halves of a guided batch: (B, ...) -> (2B, ...)."""
    return jnp.concatenate([x, x])


def guide(velocity: jax.Array, guidance_scale: jax.Array | float) -> jax.Array:
    """Combines a guided batch: (2B, ...) with conditional first -> (B, ...), uncond + scale * (cond - uncond)."""
    conditional, unconditional = jnp.split(velocity, 2)
    return unconditional + guidance_scale * (conditional - unconditional)
