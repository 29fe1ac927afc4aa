"""Solvers of the sampling ODE dx/dtau = v(x, t) over one stage, whose steps run in one `lax.scan`, and guidance.

What a velocity needs of the time alone is prepared for all steps at once, before the first.

Guidance is classifier-free (arXiv 2207.12598): one batch holds the prompts and then their negative prompts.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nami_jax.flow.schedule import Grid

Velocity = Callable[[jax.Array, Any], jax.Array]
Prepare = Callable[[Any], Any]


def euler(velocity: Velocity, x: jax.Array, grid: Grid, prepare: Prepare = jnp.asarray) -> jax.Array:
    """Integrates from the grid's first local time to its last, one velocity per step.

    Args:
        velocity: maps latents (B, H, W, C) and what `prepare` made of a global time to the velocity (B, H, W, C).
        x: (B, H, W, C) latents at the first local time.
        grid: N + 1 times.
        prepare: maps global times (M,) to arrays with a leading axis M.

    Returns:
        (B, H, W, C) latents at the last local time.
    """

    def step(x, each):
        length, here = each
        return x + length * velocity(x, here), None

    return jax.lax.scan(step, x, (lengths(grid), prepare(grid.times[:-1])))[0]


def heun(velocity: Velocity, x: jax.Array, grid: Grid, prepare: Prepare = jnp.asarray) -> jax.Array:
    """As `euler`, with the mean of the velocities at both ends of each step: second order, two velocities per step.

    The last one is at the stage's end, a time that training draws with probability 0: `midpoint` keeps clear of it.
    """
    prepared = prepare(grid.times)

    def step(x, each):
        length, here, there = each
        first = velocity(x, here)
        return x + length * (first + velocity(x + length * first, there)) / 2, None

    ends = (jax.tree.map(lambda part, some=some: part[some], prepared) for some in (slice(-1), slice(1, None)))
    return jax.lax.scan(step, x, (lengths(grid), *ends))[0]


def midpoint(velocity: Velocity, x: jax.Array, grid: Grid, prepare: Prepare = jnp.asarray) -> jax.Array:
    """As `euler`, with the velocity half-way through each step: second order, two velocities per step."""

    def step(x, each):
        length, here, half_way = each
        return x + length * velocity(x + length / 2 * velocity(x, here), half_way), None

    half_way = prepare((grid.times[:-1] + grid.times[1:]) / 2)
    return jax.lax.scan(step, x, (lengths(grid), prepare(grid.times[:-1]), half_way))[0]


def ab2(velocity: Velocity, x: jax.Array, grid: Grid, prepare: Prepare = jnp.asarray) -> jax.Array:
    """As `euler`, going on as the last two velocities did: second order, one velocity per step.

    Adams and Bashforth's method of two steps for steps of any lengths h' and then h: x + h (v + h / (2 h') (v - v')).
    The first step has no velocity before it and is Euler's, so each call begins afresh: after a jump between stages the
    latents are others, and so is the velocity.

    Source: Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, sec. III.5.
    """

    def step(carry, each):
        x, before = carry
        length, weight, here = each
        now = velocity(x, here)
        return (x + length * (now + weight * (now - before)), now), None

    steps = lengths(grid)
    weights = jnp.concatenate([jnp.zeros(1), steps[1:] / (2 * steps[:-1])])
    return jax.lax.scan(step, (x, jnp.zeros_like(x)), (steps, weights, prepare(grid.times[:-1])))[0][0]


SOLVERS = {"euler": euler, "heun": heun, "midpoint": midpoint, "ab2": ab2}


def lengths(grid: Grid) -> jax.Array:
    """Returns the steps (N,), negative: local time falls."""
    taus = jnp.asarray(grid.taus)
    return taus[1:] - taus[:-1]


def double(x: jax.Array) -> jax.Array:
    """Repeats latents for both halves of a guided batch: (B, ...) -> (2B, ...)."""
    return jnp.concatenate([x, x])


def guide(
    velocity: jax.Array,
    guidance_scale: jax.Array | float,
    rescale: jax.Array | float | None = None,
    zero_star: bool = False,
) -> jax.Array:
    """Combines a guided batch: (2B, ...) with conditional first -> (B, ...), uncond + scale * (cond - uncond).

    Args:
        velocity: (2B, ...).
        guidance_scale: 1 gives the conditional velocity.
        rescale: in [0, 1], how much of each image's standard deviation over its values is set to the conditional
            velocity's, against overexposure (arXiv 2305.08891, eq. 15 and 16); None for 0.
        zero_star: multiply each image's unconditional velocity by the number that brings it closest to the conditional
            one, <cond, uncond> / |uncond|^2 (CFG-Zero*, arXiv 2503.18886, eq. 7).
    """
    conditional, unconditional = jnp.split(velocity, 2)
    axes = tuple(range(1, velocity.ndim))
    if zero_star:
        product = (conditional * unconditional).sum(axes, keepdims=True)
        unconditional *= product / ((unconditional**2).sum(axes, keepdims=True) + 1e-8)
    guided = unconditional + guidance_scale * (conditional - unconditional)
    if rescale is None:
        return guided
    spread, wanted = (part.std(axes, keepdims=True) for part in (guided, conditional))
    return guided * (1 + rescale * (wanted / (spread + 1e-8) - 1))
