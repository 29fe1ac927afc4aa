"""Solvers of the sampling ODE dx/dtau = v(x, t) over one stage, whose steps run in one `lax.scan`, and guidance.

Guidance is classifier-free (arXiv 2207.12598): one batch holds the prompts and then their negative prompts.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from nami_jax.flow.schedule import Grid

Velocity = Callable[[jax.Array, jax.Array], jax.Array]


def euler(velocity: Velocity, x: jax.Array, grid: Grid) -> jax.Array:
    """Integrates from the grid's first local time to its last, one velocity per step.

    Args:
        velocity: maps latents (B, H, W, C) and a global time () to the velocity (B, H, W, C).
        x: (B, H, W, C) latents at the first local time.
        grid: N + 1 times.

    Returns:
        (B, H, W, C) latents at the last local time.
    """

    def step(x, times):
        tau, tau_next, t = times
        return x + (tau_next - tau) * velocity(x, t), None

    taus, times = jnp.asarray(grid.taus), jnp.asarray(grid.times)
    return jax.lax.scan(step, x, (taus[:-1], taus[1:], times[:-1]))[0]


def heun(velocity: Velocity, x: jax.Array, grid: Grid) -> jax.Array:
    """As `euler`, with the mean of the velocities at both ends of each step: second order, two velocities per step."""

    def step(x, times):
        tau, tau_next, t, t_next = times
        here = velocity(x, t)
        there = velocity(x + (tau_next - tau) * here, t_next)
        return x + (tau_next - tau) * (here + there) / 2, None

    taus, times = jnp.asarray(grid.taus), jnp.asarray(grid.times)
    return jax.lax.scan(step, x, (taus[:-1], taus[1:], times[:-1], times[1:]))[0]


SOLVERS = {"euler": euler, "heun": heun}


def double(x: jax.Array) -> jax.Array:
    """Repeats latents for both halves of a guided batch: (B, ...) -> (2B, ...)."""
    return jnp.concatenate([x, x])


def guide(velocity: jax.Array, guidance_scale: jax.Array | float) -> jax.Array:
    """Combines a guided batch: (2B, ...) with conditional first -> (B, ...), uncond + scale * (cond - uncond)."""
    conditional, unconditional = jnp.split(velocity, 2)
    return unconditional + guidance_scale * (conditional - unconditional)
