"""The compiled programs of a stage: its noise, the jump into it, its steps, all of them at once or one by one.

The programs of the last shapes are kept, so further prompts, seeds, guidance scales and weights cost no compilation.
"""

import itertools
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from nami_jax.flow.interpolant import clean_estimate
from nami_jax.flow.schedule import Grid
from nami_jax.flow.solver import SOLVERS, Moving, Step, begin
from nami_jax.flow.stages import Stage
from nami_jax.flow.transition import Transition
from nami_jax.models.layout import ONE_DEVICE, Layout
from nami_jax.models.nami import Nami
from nami_jax.parallel.kept_programs import BoundedJit
from nami_jax.sampling.source_paths import Held
from nami_jax.sampling.velocity import Guidance, StageProgram, stage_velocity


class Networks(NamedTuple):
    """What has weights: an argument of the compiled functions."""

    model: Nami
    transition: Transition


def image_noise(
    seed: int, numbers: Sequence[int], stage: Stage, shape: tuple[int, int, int], layout: Layout = ONE_DEVICE
) -> jax.Array:
    """Draws each image's noise for one stage, from the seed and the image's number alone.

    Args:
        seed: of the request.
        numbers: (B,) image numbers; the noise of a number does not depend on the others.
        stage: the stage k, which has noise of its own.
        shape: (H, W, C).
        layout: how images are spread over devices.

    Returns:
        (B, H, W, C) standard normal, float32.
    """
    return draw_noise((stage.number, shape, layout), np.uint32(seed), np.asarray(numbers, np.uint32))


@BoundedJit
def draw_noise(kind: tuple[int, tuple[int, int, int], Layout], seed: np.uint32, numbers: np.ndarray) -> jax.Array:
    """Draws noise for a stage's number, its latents' shape and the layout: see `image_noise`."""
    stage_number, shape, layout = kind
    # threefry: the same numbers alone and under vmap, on every platform.
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), stage_number)
    return layout.latents(jax.vmap(lambda number: jax.random.normal(jax.random.fold_in(key, number), shape))(numbers))


@BoundedJit
def run_stage(
    program: StageProgram,
    networks: Networks,
    x: jax.Array,
    noise: jax.Array | None,
    guidance: Guidance,
    grid: Grid,
    held: Held | None = None,
) -> Moving:
    """Jumps into a stage and integrates over it: one compiled function per stage and shape.

    Args:
        program: the stage, how it is solved and where.
        networks: the network and the transition.
        x: (B, H/2, W/2, C) result of the stage before; without a jump its start, (B, H, W, C).
        noise: (B, H, W, C) standard normal for the jump; None without one and where the jump needs none.
        guidance: text states and scale.
        grid: the stage's times.
        held: what is not drawn; None: all is.

    Returns:
        The latents (B, H, W, C) at the stage's end, and the last velocity.
    """
    before, layout, solver = program.before, program.layout, SOLVERS[program.solver]
    x = layout.latents(x if before is None else networks.transition(x, noise, before))
    moving, after = begin(x), None if held is None else held.after
    for guided, part in guided_runs(program.guided, grid):
        velocity = stage_velocity(networks.model, guidance, program, guided)
        moving = solver.integrate(velocity.at, begin(moving.x), solver.steps(part), velocity.prepare, after)
    return moving


def run_stage_by_steps(
    program: StageProgram,
    networks: Networks,
    x: jax.Array,
    noise: jax.Array | None,
    guidance: Guidance,
    grid: Grid,
    held: Held | None,
) -> Generator[Moving, Any, None]:
    """Does what `run_stage` does by a program for one step, and yields after each.

    What is sent in for it (`Generator.send`) takes the place of the latents. The programs are others than that of the
    whole stage, so the results differ in rounding; a step costs a call more, and prepares its own time.
    """
    layout, solver = program.layout, SOLVERS[program.solver]
    if program.before is not None:
        x = jump((program.before, layout), networks.transition, x, noise)
    for guided, part in guided_runs(program.guided, grid):
        moving, steps = begin(x), solver.steps(part)
        one = program._replace(before=None, guided=(guided,))
        for i in range(len(steps.length)):
            step = jax.tree.map(lambda array, i=i: array[i : i + 1], steps)
            moving = take_step(one, networks, moving, guidance, step, held)
            changed = yield moving
            moving = moving if changed is None else moving._replace(x=changed)
        x = moving.x


@BoundedJit
def jump(kind: tuple[Stage, Layout], transition: Transition, x: jax.Array, noise: jax.Array | None) -> jax.Array:
    """Takes the end of the stage in `kind`, (B, H/2, W/2, C), to the start of the next, (B, H, W, C)."""
    before, layout = kind
    return layout.latents(transition(layout.latents(x), noise, before))


@BoundedJit
def take_step(
    program: StageProgram, networks: Networks, moving: Moving, guidance: Guidance, step: Step, held: Held | None
) -> Moving:
    """Takes one step of a stage; the arrays of `step` have a leading axis of 1."""
    velocity = stage_velocity(networks.model, guidance, program, *program.guided)
    solver = SOLVERS[program.solver]
    return solver.integrate(velocity.at, moving, step, velocity.prepare, None if held is None else held.after)


@BoundedJit
def estimate_clean(kind: tuple[Stage, float, Layout], end: Moving) -> jax.Array:
    """Returns `clean_estimate` of a stage's end, (B, H, W, C); `kind`: the stage, the share of noise and the layout."""
    stage, share, layout = kind
    return layout.latents(clean_estimate(*end, stage, share))


def guided_runs(guided: Sequence[bool], grid: Grid) -> Iterator[tuple[bool, Grid]]:
    """Yields the parts of a grid that are guided or not: where guidance begins or ends, the velocity jumps."""
    first = 0
    for value, steps in itertools.groupby(guided):
        last = first + len(list(steps))
        yield value, Grid(*(times[first : last + 1] for times in grid))
        first = last
