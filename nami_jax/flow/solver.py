"""Solvers of the sampling ODE dx/dtau = v(x, t) over one stage, whose steps run in one `lax.scan`, and guidance.

What a velocity needs of the time alone is prepared for all steps at once, before the first.

Guidance is classifier-free (arXiv 2207.12598): one batch holds the prompts and then their negative prompts.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nami_jax.flow.schedule import Grid

Velocity = Callable[[jax.Array, Any], jax.Array]
Prepare = Callable[[Any], Any]
After = Callable[[jax.Array, jax.Array], jax.Array]


class Step(NamedTuple):
    """What a solver takes a step by; of N steps, arrays with a leading axis N.

    Attributes:
        length: () to the next local time, negative: local time falls.
        tau: () the local time where it ends.
        weight: () how much of the change since the velocity before it counts (`ab2`).
        times: the global times () at which it asks for velocities, or what `prepare` made of them.
    """

    length: Any
    tau: Any
    weight: Any
    times: tuple[Any, ...]


class Moving(NamedTuple):
    """Where an integration stands."""

    x: jax.Array  # (B, H, W, C) latents
    velocity: jax.Array  # (B, H, W, C) the last one, zeros before the first step


@dataclasses.dataclass(frozen=True)
class Solver:
    """A solver, by its single step.

    Attributes:
        move: takes a velocity (of latents and of what `prepare` made of a global time), where the integration stands
            and a step to where it stands then.
        asks: where within a step it asks for velocities: 0 at its beginning, 1 at its end.
    """

    move: Callable[[Velocity, Moving, Step], Moving]
    asks: tuple[float, ...] = (0.0,)

    def __call__(self, velocity: Velocity, x: jax.Array, grid: Grid, prepare: Prepare = jnp.asarray) -> jax.Array:
        """Returns the latents at the grid's last local time; arguments as for `integrate`."""
        return self.integrate(velocity, begin(x), self.steps(grid), prepare).x

    def steps(self, grid: Grid) -> Step:
        """Returns the N steps of a grid of N + 1 times, NumPy arrays if those of the grid are."""
        taus, times = grid
        arrays: Any = jnp if isinstance(taus, jax.Array) else np
        lengths = taus[1:] - taus[:-1]
        weights = arrays.concatenate([arrays.zeros(1, lengths.dtype), lengths[1:] / (2 * lengths[:-1])])
        return Step(lengths, taus[1:], weights, tuple((1 - s) * times[:-1] + s * times[1:] for s in self.asks))

    def integrate(
        self,
        velocity: Velocity,
        moving: Moving,
        steps: Step,
        prepare: Prepare = jnp.asarray,
        after: After | None = None,
    ) -> Moving:
        """Takes steps in one scan.

        Args:
            velocity: maps latents (B, H, W, C) and what `prepare` made of a global time to the velocity (B, H, W, C).
            moving: where it begins.
            steps: N of them, each array with a leading axis N.
            prepare: maps global times (N,) to arrays with a leading axis N.
            after: what is done to the latents after each step, given the local time () where it ends; None: nothing.
        """

        def step(moving: Moving, each: Step) -> tuple[Moving, None]:
            moved = self.move(velocity, moving, each)
            return (moved if after is None else moved._replace(x=after(moved.x, each.tau))), None

        prepared = steps._replace(times=tuple(map(prepare, steps.times)))
        return jax.lax.scan(step, moving, jax.tree.map(jnp.asarray, prepared))[0]


def begin(x: jax.Array) -> Moving:
    """Returns an integration that begins at latents x (B, H, W, C)."""
    return Moving(x, jnp.zeros_like(x))


def _euler(velocity: Velocity, moving: Moving, step: Step) -> Moving:
    now = velocity(moving.x, step.times[0])
    return Moving(moving.x + step.length * now, now)


def _heun(velocity: Velocity, moving: Moving, step: Step) -> Moving:
    here, there = step.times
    first = velocity(moving.x, here)
    mean = (first + velocity(moving.x + step.length * first, there)) / 2
    return Moving(moving.x + step.length * mean, mean)


def _midpoint(velocity: Velocity, moving: Moving, step: Step) -> Moving:
    here, half_way = step.times
    middle = velocity(moving.x + step.length / 2 * velocity(moving.x, here), half_way)
    return Moving(moving.x + step.length * middle, middle)


def _ab2(velocity: Velocity, moving: Moving, step: Step) -> Moving:
    now = velocity(moving.x, step.times[0])
    return Moving(moving.x + step.length * (now + step.weight * (now - moving.velocity)), now)


# One velocity per step.
euler = Solver(_euler)
# The mean of the velocities at both ends of each step: second order, two velocities per step. The last one is at the
# stage's end, a time that training draws with probability 0: `midpoint` keeps clear of it.
heun = Solver(_heun, (0.0, 1.0))
# The velocity half-way through each step: second order, two velocities per step.
midpoint = Solver(_midpoint, (0.0, 0.5))
# Goes on as the last two velocities did: second order, one velocity per step. Adams and Bashforth's method of two steps
# for steps of any lengths h' and then h: x + h (v + h / (2 h') (v - v')). The first step has no velocity before it and
# is Euler's, so each stage begins afresh: after a jump the latents are others, and so is the velocity.
# Source: Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, sec. III.5.
ab2 = Solver(_ab2)

SOLVERS = {"euler": euler, "heun": heun, "midpoint": midpoint, "ab2": ab2}


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
