"""At which local times of a stage's path a network is trained: draws of three densities on [0, 1].

A time's density is its weight in the loss. What is known of single flows need not hold for stages, whose ends are
seldom pure noise or pure data.
"""

import math

import jax
import jax.numpy as jnp

from nami_jax.config import FlowConfig


def draw_times(key: jax.Array, shape: tuple[int, ...], flow: FlowConfig) -> jax.Array:
    """Draws local times, float32 in [0, 1], 1 = the stage's noisier start, from the density `flow.time_sampling`."""
    match flow.time_sampling:
        case "uniform":
            return jax.random.uniform(key, shape, jnp.float32)
        case "u_shaped":
            return u_shaped(key, shape, flow.time_slope)
    return logit_normal(key, shape, flow.time_mean, flow.time_std)


def logit_normal(key: jax.Array, shape: tuple[int, ...], mean: float = 0.0, std: float = 1.0) -> jax.Array:
    """Draws local times in (0, 1) as sigmoid(mean + std * normal), float32. SD3, arXiv 2403.03206, sec. 3.1."""
    return jax.nn.sigmoid(mean + std * jax.random.normal(key, shape, jnp.float32))


def u_shaped(key: jax.Array, shape: tuple[int, ...], slope: float) -> jax.Array:
    """Draws local times in [0, 1] whose density is highest at both ends, float32.

    With a the slope, the density is proportional to exp(a t) + exp(a (1 - t)), that is

        a cosh(a (t - 1/2)) / (2 sinh(a/2)),  whose integral is  1/2 + sinh(a (t - 1/2)) / (2 sinh(a/2)):

    cosh(a/2) times as high at the ends as in the middle, and uniform as a falls to 0. The integral is inverted here.

    Source: Lee et al., Improving the Training of Rectified Flows, arXiv 2405.20320, sec. 4, which takes a = 4.
    """
    uniform = jax.random.uniform(key, shape, jnp.float32)
    return jnp.clip(0.5 + jnp.arcsinh((2 * uniform - 1) * math.sinh(slope / 2)) / slope, 0.0, 1.0)
